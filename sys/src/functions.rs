//! The one list of vendor functions.
//!
//! [`vendor_functions!`](crate::vendor_functions) hands the list to a callback macro; the call table, the loader, the
//! simulator's in-process table, its exported symbols, the C headers and the drift checks are all expansions of it.
//! A line of `functions` reads: library, need, first CANN release with this signature, prototype. A line of `operators`
//! reads: library, release, operator, phase 1, phase 2 and the parameters of phase 1 up to the two that all share
//! (`uint64_t* workspaceSize, aclOpExecutor** executor`); phase 2 is the same for all.
//!
//! Signatures: CANN headers as listed in `tests/data/signatures.tsv`, which the tests hold this list against.

/// Hands the list of vendor functions to `$callback!`, which receives
/// `$($prefix)* functions { library need "since" name(param: type, ..) -> type; .. }
/// operators { library "since" operator: phase1, phase2(param: type, ..); .. }`.
///
/// The callback's scope must have this crate's types and `core::ffi::{c_char, c_int, c_void}` in it.
#[macro_export]
macro_rules! vendor_functions {
    ($callback:ident! $($prefix:tt)*) => { $callback! {
        $($prefix)*
        functions {
        Acl Must "8.1" aclInit(configPath: *const c_char) -> aclError;
        Acl Must "8.1" aclFinalize() -> aclError;
        Acl Must "8.1" aclGetRecentErrMsg() -> *const c_char;
        Acl Must "8.1" aclrtGetSocName() -> *const c_char;
        Acl Must "8.1" aclrtGetDeviceCount(count: *mut u32) -> aclError;
        Acl Must "8.1" aclrtSetDevice(deviceId: i32) -> aclError;
        Acl Must "8.1" aclrtResetDevice(deviceId: i32) -> aclError;
        Acl Must "8.1" aclrtGetDevice(deviceId: *mut i32) -> aclError;
        Acl Must "8.1" aclrtGetCurrentContext(context: *mut aclrtContext) -> aclError;
        Acl Must "8.1" aclrtSetCurrentContext(context: aclrtContext) -> aclError;
        Acl Must "8.1" aclrtSynchronizeDevice() -> aclError;
        Acl Must "8.1" aclrtCreateStream(stream: *mut aclrtStream) -> aclError;
        Acl Must "8.1" aclrtCreateStreamWithConfig(stream: *mut aclrtStream, priority: u32, flag: u32) -> aclError;
        Acl Must "8.1" aclrtDestroyStream(stream: aclrtStream) -> aclError;
        Acl Must "8.1" aclrtSynchronizeStream(stream: aclrtStream) -> aclError;
        Acl Must "8.1" aclrtSynchronizeStreamWithTimeout(stream: aclrtStream, timeout: i32) -> aclError;
        Acl Must "8.1" aclrtMalloc(devPtr: *mut *mut c_void, size: usize, policy: aclrtMemMallocPolicy) -> aclError;
        Acl Must "8.1" aclrtMallocAlign32(devPtr: *mut *mut c_void, size: usize, policy: aclrtMemMallocPolicy) -> aclError;
        Acl Must "8.1" aclrtFree(devPtr: *mut c_void) -> aclError;
        Acl Must "8.1" aclrtMallocHost(hostPtr: *mut *mut c_void, size: usize) -> aclError;
        Acl Must "8.1" aclrtFreeHost(hostPtr: *mut c_void) -> aclError;
        Acl Must "8.1" aclrtMemcpy(dst: *mut c_void, destMax: usize, src: *const c_void, count: usize, kind: aclrtMemcpyKind) -> aclError;
        Acl Must "8.1" aclrtMemcpyAsync(dst: *mut c_void, destMax: usize, src: *const c_void, count: usize, kind: aclrtMemcpyKind, stream: aclrtStream) -> aclError;
        Acl Must "8.1" aclrtMemset(devPtr: *mut c_void, maxCount: usize, value: i32, count: usize) -> aclError;
        Acl Must "8.1" aclrtMemsetAsync(devPtr: *mut c_void, maxCount: usize, value: i32, count: usize, stream: aclrtStream) -> aclError;
        Acl Must "8.1" aclrtGetMemInfo(attr: aclrtMemAttr, free: *mut usize, total: *mut usize) -> aclError;
        Acl Should "8.1" aclrtCreateEventExWithFlag(event: *mut aclrtEvent, flag: u32) -> aclError;
        Acl Should "8.1" aclrtCreateEventWithFlag(event: *mut aclrtEvent, flag: u32) -> aclError;
        Acl Should "8.1" aclrtDestroyEvent(event: aclrtEvent) -> aclError;
        Acl Should "8.1" aclrtRecordEvent(event: aclrtEvent, stream: aclrtStream) -> aclError;
        Acl Should "8.1" aclrtStreamWaitEvent(stream: aclrtStream, event: aclrtEvent) -> aclError;
        Acl Should "8.1" aclrtQueryEventStatus(event: aclrtEvent, status: *mut aclrtEventRecordedStatus) -> aclError;
        Acl Should "8.1" aclrtSynchronizeEvent(event: aclrtEvent) -> aclError;
        Acl Should "8.1" aclrtSynchronizeEventWithTimeout(event: aclrtEvent, timeout: i32) -> aclError;
        Acl Should "8.1" aclrtEventElapsedTime(ms: *mut f32, startEvent: aclrtEvent, endEvent: aclrtEvent) -> aclError;
        Acl Should "8.1" aclrtStreamQuery(stream: aclrtStream, status: *mut aclrtStreamStatus) -> aclError;
        Acl Should "8.1" aclrtCreateContext(context: *mut aclrtContext, deviceId: i32) -> aclError;
        Acl Should "8.1" aclrtDestroyContext(context: aclrtContext) -> aclError;
        Acl Should "8.1" aclrtResetDeviceForce(deviceId: i32) -> aclError;
        Acl Should "8.1" aclrtSynchronizeDeviceWithTimeout(timeout: i32) -> aclError;
        Acl Should "8.1" aclrtPeekAtLastError(level: aclrtLastErrLevel) -> aclError;
        Acl Should "8.1" aclrtGetLastError(level: aclrtLastErrLevel) -> aclError;
        Acl Should "8.1" aclsysGetCANNVersion(name: aclCANNPackageName, version: *mut aclCANNPackageVersion) -> aclError;
        Acl Should "8.1" aclrtGetVersion(majorVersion: *mut i32, minorVersion: *mut i32, patchVersion: *mut i32) -> aclError;
        Acl Should "8.1" aclGetDeviceCapability(deviceId: u32, deviceInfo: aclDeviceInfo, value: *mut i64) -> aclError;
        Acl Should "8.1" aclrtSetStreamFailureMode(stream: aclrtStream, mode: u64) -> aclError;
        Acl Should "8.1" aclrtSetDeviceSatMode(mode: aclrtFloatOverflowMode) -> aclError;
        Acl Should "8.1" aclrtSetOpExecuteTimeOut(timeout: u32) -> aclError;
        Acl Should "8.1" aclrtSetExceptionInfoCallback(callback: aclrtExceptionInfoCallback) -> aclError;
        Acl Should "8.1" aclrtGetTaskIdFromExceptionInfo(info: *const aclrtExceptionInfo) -> u32;
        Acl Should "8.1" aclrtGetStreamIdFromExceptionInfo(info: *const aclrtExceptionInfo) -> u32;
        Acl Should "8.1" aclrtGetThreadIdFromExceptionInfo(info: *const aclrtExceptionInfo) -> u32;
        Acl Should "8.1" aclrtGetDeviceIdFromExceptionInfo(info: *const aclrtExceptionInfo) -> u32;
        Acl Should "8.1" aclrtGetErrorCodeFromExceptionInfo(info: *const aclrtExceptionInfo) -> u32;
        Acl Should "8.1" aclrtDeviceCanAccessPeer(canAccessPeer: *mut i32, deviceId: i32, peerDeviceId: i32) -> aclError;
        Acl Should "8.1" aclrtDeviceEnablePeerAccess(peerDeviceId: i32, flags: u32) -> aclError;
        Acl Should "8.1" aclrtSetSysParamOpt(opt: aclSysParamOpt, value: i64) -> aclError;
        Acl Should "8.1" aclDataTypeSize(dataType: aclDataType) -> usize;
        Acl Should "8.1" aclrtStreamGetId(stream: aclrtStream, streamId: *mut i32) -> aclError;
        Acl Should "8.1" aclrtLaunchCallback(fn_: aclrtCallback, userData: *mut c_void, blockType: aclrtCallbackBlockType, stream: aclrtStream) -> aclError;
        Acl Should "8.1" aclrtSubscribeReport(threadId: u64, stream: aclrtStream) -> aclError;
        Acl Should "8.1" aclrtProcessReport(timeout: i32) -> aclError;
        Acl Should "8.1" aclrtUnSubscribeReport(threadId: u64, stream: aclrtStream) -> aclError;
        Acl Optional "8.5.0" aclFinalizeReference(refCount: *mut u64) -> aclError;
        Acl Optional "8.5.0" aclsysGetVersionStr(pkgName: *mut c_char, versionStr: *mut c_char) -> aclError;
        Acl Optional "8.5.0" aclsysGetVersionNum(pkgName: *mut c_char, versionNum: *mut i32) -> aclError;
        Acl Optional "8.5.0" aclrtGetDeviceInfo(deviceId: u32, attr: aclrtDevAttr, value: *mut i64) -> aclError;
        Acl Optional "8.5.0" aclrtLaunchHostFunc(stream: aclrtStream, fn_: aclrtHostFunc, args: *mut c_void) -> aclError;
        Acl Optional "8.5.0" aclrtGetStreamAvailableNum(streamCount: *mut u32) -> aclError;
        Acl Optional "8.1" aclmdlRICaptureBegin(stream: aclrtStream, mode: aclmdlRICaptureMode) -> aclError;
        Acl Optional "8.1" aclmdlRICaptureEnd(stream: aclrtStream, modelRI: *mut aclmdlRI) -> aclError;
        Acl Optional "8.1" aclmdlRICaptureGetInfo(stream: aclrtStream, status: *mut aclmdlRICaptureStatus, modelRI: *mut aclmdlRI) -> aclError;
        Acl Optional "8.1" aclmdlRICaptureThreadExchangeMode(mode: *mut aclmdlRICaptureMode) -> aclError;
        Acl Optional "8.1" aclmdlRIExecuteAsync(modelRI: aclmdlRI, stream: aclrtStream) -> aclError;
        Acl Optional "8.5.0" aclmdlRIExecute(modelRI: aclmdlRI, timeout: i32) -> aclError;
        Acl Optional "8.1" aclmdlRIDestroy(modelRI: aclmdlRI) -> aclError;
        Acl Optional "8.1" aclmdlRICaptureTaskGrpBegin(stream: aclrtStream) -> aclError;
        Acl Optional "8.1" aclmdlRICaptureTaskGrpEnd(stream: aclrtStream, handle: *mut aclrtTaskGrp) -> aclError;
        Acl Optional "8.1" aclmdlRICaptureTaskUpdateBegin(stream: aclrtStream, handle: aclrtTaskGrp) -> aclError;
        Acl Optional "8.1" aclmdlRICaptureTaskUpdateEnd(stream: aclrtStream) -> aclError;
        Acl Optional "8.1" aclmdlRIDebugPrint(modelRI: aclmdlRI) -> aclError;
        Base Must "8.1" aclCreateTensor(viewDims: *const i64, viewDimsNum: u64, dataType: aclDataType, stride: *const i64, offset: i64, format: aclFormat, storageDims: *const i64, storageDimsNum: u64, tensorData: *mut c_void) -> *mut aclTensor;
        Base Must "8.1" aclDestroyTensor(tensor: *const aclTensor) -> aclnnStatus;
        Base Must "8.1" aclCreateTensorList(value: *const *const aclTensor, size: u64) -> *mut aclTensorList;
        Base Must "8.1" aclDestroyTensorList(array: *const aclTensorList) -> aclnnStatus;
        Base Must "8.1" aclCreateScalar(value: *mut c_void, dataType: aclDataType) -> *mut aclScalar;
        Base Must "8.1" aclDestroyScalar(scalar: *const aclScalar) -> aclnnStatus;
        Base Must "8.1" aclCreateIntArray(value: *const i64, size: u64) -> *mut aclIntArray;
        Base Must "8.1" aclDestroyIntArray(array: *const aclIntArray) -> aclnnStatus;
        Base Must "8.1" aclDestroyAclOpExecutor(executor: *mut aclOpExecutor) -> aclnnStatus;
        Base Should "8.1" aclCreateFloatArray(value: *const f32, size: u64) -> *mut aclFloatArray;
        Base Should "8.1" aclDestroyFloatArray(array: *const aclFloatArray) -> aclnnStatus;
        Base Should "8.1" aclCreateBoolArray(value: *const bool, size: u64) -> *mut aclBoolArray;
        Base Should "8.1" aclDestroyBoolArray(array: *const aclBoolArray) -> aclnnStatus;
        Base Should "8.1" aclCreateScalarList(value: *const *const aclScalar, size: u64) -> *mut aclScalarList;
        Base Should "8.1" aclDestroyScalarList(array: *const aclScalarList) -> aclnnStatus;
        Base Should "8.1" aclInitTensor(tensor: *mut aclTensor, viewDims: *const i64, viewDimsNum: u64, dataType: aclDataType, stride: *const i64, offset: i64, format: aclFormat, storageDims: *const i64, storageDimsNum: u64, tensorDataAddr: *mut c_void) -> aclnnStatus;
        Base Should "8.1" aclGetIntArraySize(array: *const aclIntArray, size: *mut u64) -> aclnnStatus;
        Base Should "8.1" aclGetFloatArraySize(array: *const aclFloatArray, size: *mut u64) -> aclnnStatus;
        Base Should "8.1" aclGetBoolArraySize(array: *const aclBoolArray, size: *mut u64) -> aclnnStatus;
        Base Should "8.1" aclGetTensorListSize(tensorList: *const aclTensorList, size: *mut u64) -> aclnnStatus;
        Base Should "8.1" aclGetScalarListSize(scalarList: *const aclScalarList, size: *mut u64) -> aclnnStatus;
        Base Should "8.1" aclGetViewShape(tensor: *const aclTensor, viewDims: *mut *mut i64, viewDimsNum: *mut u64) -> aclnnStatus;
        Base Should "8.1" aclGetStorageShape(tensor: *const aclTensor, storageDims: *mut *mut i64, storageDimsNum: *mut u64) -> aclnnStatus;
        Base Should "8.1" aclGetViewStrides(tensor: *const aclTensor, stridesValue: *mut *mut i64, stridesNum: *mut u64) -> aclnnStatus;
        Base Should "8.1" aclGetViewOffset(tensor: *const aclTensor, offset: *mut i64) -> aclnnStatus;
        Base Should "8.1" aclGetFormat(tensor: *const aclTensor, format: *mut aclFormat) -> aclnnStatus;
        Base Should "8.1" aclGetDataType(tensor: *const aclTensor, dataType: *mut aclDataType) -> aclnnStatus;
        Base Should "8.1" aclSetRawTensorAddr(tensor: *mut aclTensor, addr: *mut c_void) -> aclnnStatus;
        Base Should "8.1" aclGetRawTensorAddr(tensor: *const aclTensor, addr: *mut *mut c_void) -> aclnnStatus;
        Base Should "8.1" aclSetAclOpExecutorRepeatable(executor: *mut aclOpExecutor) -> aclnnStatus;
        Base Should "8.1" aclSetInputTensorAddr(executor: *mut aclOpExecutor, index: usize, tensor: *mut aclTensor, addr: *mut c_void) -> aclnnStatus;
        Base Should "8.1" aclSetOutputTensorAddr(executor: *mut aclOpExecutor, index: usize, tensor: *mut aclTensor, addr: *mut c_void) -> aclnnStatus;
        Base Should "8.1" aclSetTensorAddr(executor: *mut aclOpExecutor, index: usize, tensor: *mut aclTensor, addr: *mut c_void) -> aclnnStatus;
        Base Should "8.1" aclSetDynamicInputTensorAddr(executor: *mut aclOpExecutor, irIndex: usize, relativeIndex: usize, tensors: *mut aclTensorList, addr: *mut c_void) -> aclnnStatus;
        Base Should "8.1" aclSetDynamicOutputTensorAddr(executor: *mut aclOpExecutor, irIndex: usize, relativeIndex: usize, tensors: *mut aclTensorList, addr: *mut c_void) -> aclnnStatus;
        Base Should "8.1" aclSetDynamicTensorAddr(executor: *mut aclOpExecutor, irIndex: usize, relativeIndex: usize, tensors: *mut aclTensorList, addr: *mut c_void) -> aclnnStatus;
        Base Should "8.1" aclnnInit(configPath: *const c_char) -> aclnnStatus;
        Base Should "8.1" aclnnFinalize() -> aclnnStatus;
        HcclComm Should "8.1" HcclGetRootInfo(rootInfo: *mut HcclRootInfo) -> HcclResult;
        HcclComm Should "8.1" HcclCommInitRootInfo(nRanks: u32, rootInfo: *const HcclRootInfo, rank: u32, comm: *mut HcclComm) -> HcclResult;
        HcclComm Should "8.1" HcclCommInitRootInfoConfig(nRanks: u32, rootInfo: *const HcclRootInfo, rank: u32, config: *const HcclCommConfig, comm: *mut HcclComm) -> HcclResult;
        HcclComm Should "8.1" HcclCommInitAll(ndev: u32, devices: *mut i32, comms: *mut HcclComm) -> HcclResult;
        HcclComm Should "8.1" HcclCommDestroy(comm: HcclComm) -> HcclResult;
        HcclComm Should "8.1" HcclGetCommName(comm: HcclComm, commName: *mut c_char) -> HcclResult;
        HcclComm Should "8.1" HcclGetRankId(comm: HcclComm, rank: *mut u32) -> HcclResult;
        HcclComm Should "8.1" HcclGetRankSize(comm: HcclComm, rankSize: *mut u32) -> HcclResult;
        HcclComm Should "8.1" HcclGetErrorString(code: HcclResult) -> *const c_char;
        HcclComm Should "8.1" HcclGetCommAsyncError(comm: HcclComm, asyncError: *mut HcclResult) -> HcclResult;
        Hccl Should "8.1" HcclAllReduce(sendBuf: *mut c_void, recvBuf: *mut c_void, count: u64, dataType: HcclDataType, op: HcclReduceOp, comm: HcclComm, stream: aclrtStream) -> HcclResult;
        Hccl Should "8.1" HcclAllGather(sendBuf: *mut c_void, recvBuf: *mut c_void, sendCount: u64, dataType: HcclDataType, comm: HcclComm, stream: aclrtStream) -> HcclResult;
        Hccl Should "8.1" HcclReduceScatter(sendBuf: *mut c_void, recvBuf: *mut c_void, recvCount: u64, dataType: HcclDataType, op: HcclReduceOp, comm: HcclComm, stream: aclrtStream) -> HcclResult;
        Hccl Should "8.1" HcclAlltoAll(sendBuf: *const c_void, sendCount: u64, sendType: HcclDataType, recvBuf: *const c_void, recvCount: u64, recvType: HcclDataType, comm: HcclComm, stream: aclrtStream) -> HcclResult;
        Hccl Should "8.1" HcclAlltoAllV(sendBuf: *const c_void, sendCounts: *const c_void, sdispls: *const c_void, sendType: HcclDataType, recvBuf: *const c_void, recvCounts: *const c_void, rdispls: *const c_void, recvType: HcclDataType, comm: HcclComm, stream: aclrtStream) -> HcclResult;
        Hccl Should "8.1" HcclBroadcast(buf: *mut c_void, count: u64, dataType: HcclDataType, root: u32, comm: HcclComm, stream: aclrtStream) -> HcclResult;
        Hccl Should "8.1" HcclBarrier(comm: HcclComm, stream: aclrtStream) -> HcclResult;
        OpsMath Operator "8.5.0" aclnnNpuFormatCastCalculateSizeAndFormat(srcTensor: *const aclTensor, dstFormat: c_int, additionalDtype: c_int, dstShape: *mut *mut i64, dstShapeSize: *mut u64, actualFormat: *mut c_int) -> aclnnStatus;
        OpsMath Operator "8.1" aclnnCalculateMatmulWeightSize(tensorShape: *const aclIntArray, weightTensorSize: *mut u64) -> aclnnStatus;
        OpsMath Operator "8.1" aclnnCalculateMatmulWeightSizeV2(tensorShape: *const aclIntArray, dataType: aclDataType, weightTensorSize: *mut u64) -> aclnnStatus;
        }
        operators {
        OpsNn "8.1" Mm: aclnnMmGetWorkspaceSize, aclnnMm(self_: *const aclTensor, mat2: *const aclTensor, out: *mut aclTensor, cubeMathType: i8);
        OpsNn "8.1" Matmul: aclnnMatmulGetWorkspaceSize, aclnnMatmul(self_: *const aclTensor, mat2: *const aclTensor, out: *mut aclTensor, cubeMathType: i8);
        OpsMath "8.1" Cast: aclnnCastGetWorkspaceSize, aclnnCast(self_: *const aclTensor, dtype: aclDataType, out: *mut aclTensor);
        OpsMath "8.1" Add: aclnnAddGetWorkspaceSize, aclnnAdd(self_: *const aclTensor, other: *const aclTensor, alpha: *const aclScalar, out: *mut aclTensor);
        OpsMath "8.1" Mul: aclnnMulGetWorkspaceSize, aclnnMul(self_: *const aclTensor, other: *const aclTensor, out: *mut aclTensor);
        OpsMath "8.1" Muls: aclnnMulsGetWorkspaceSize, aclnnMuls(self_: *const aclTensor, other: *const aclScalar, out: *mut aclTensor);
        OpsTransformer "8.5.0" MoeGatingTopK: aclnnMoeGatingTopKGetWorkspaceSize, aclnnMoeGatingTopK(x: *const aclTensor, biasOptional: *const aclTensor, k: i64, kGroup: i64, groupCount: i64, groupSelectMode: i64, renorm: i64, normType: i64, outFlag: bool, routedScalingFactor: f64, eps: f64, yOut: *const aclTensor, expertIdxOut: *const aclTensor, outOut: *const aclTensor);
        OpsTransformer "8.5.0" MoeInitRoutingV3: aclnnMoeInitRoutingV3GetWorkspaceSize, aclnnMoeInitRoutingV3(x: *const aclTensor, expertIdx: *const aclTensor, scaleOptional: *const aclTensor, offsetOptional: *const aclTensor, activeNum: i64, expertCapacity: i64, expertNum: i64, dropPadMode: i64, expertTokensNumType: i64, expertTokensNumFlag: bool, quantMode: i64, activeExpertRangeOptional: *const aclIntArray, rowIdxType: i64, expandedXOut: *const aclTensor, expandedRowIdxOut: *const aclTensor, expertTokensCountOrCumsumOut: *const aclTensor, expandedScaleOut: *const aclTensor);
        OpsTransformer "8.1" GroupedMatmulV4: aclnnGroupedMatmulV4GetWorkspaceSize, aclnnGroupedMatmulV4(x: *const aclTensorList, weight: *const aclTensorList, biasOptional: *const aclTensorList, scaleOptional: *const aclTensorList, offsetOptional: *const aclTensorList, antiquantScaleOptional: *const aclTensorList, antiquantOffsetOptional: *const aclTensorList, perTokenScaleOptional: *const aclTensorList, groupListOptional: *const aclTensor, activationInputOptional: *const aclTensorList, activationQuantScaleOptional: *const aclTensorList, activationQuantOffsetOptional: *const aclTensorList, splitItem: i64, groupType: i64, groupListType: i64, actType: i64, out: *mut aclTensorList, activationFeatureOutOptional: *mut aclTensorList, dynQuantScaleOutOptional: *mut aclTensorList);
        OpsTransformer "8.5.0" GroupedMatmulV5: aclnnGroupedMatmulV5GetWorkspaceSize, aclnnGroupedMatmulV5(x: *const aclTensorList, weight: *const aclTensorList, biasOptional: *const aclTensorList, scaleOptional: *const aclTensorList, offsetOptional: *const aclTensorList, antiquantScaleOptional: *const aclTensorList, antiquantOffsetOptional: *const aclTensorList, perTokenScaleOptional: *const aclTensorList, groupListOptional: *const aclTensor, activationInputOptional: *const aclTensorList, activationQuantScaleOptional: *const aclTensorList, activationQuantOffsetOptional: *const aclTensorList, splitItem: i64, groupType: i64, groupListType: i64, actType: i64, tuningConfigOptional: *mut aclIntArray, out: *mut aclTensorList, activationFeatureOutOptional: *mut aclTensorList, dynQuantScaleOutOptional: *mut aclTensorList);
        OpsNn "8.1" SwiGlu: aclnnSwiGluGetWorkspaceSize, aclnnSwiGlu(x: *const aclTensor, dim: i64, out: *const aclTensor);
        OpsTransformer "8.1" MoeFinalizeRoutingV2: aclnnMoeFinalizeRoutingV2GetWorkspaceSize, aclnnMoeFinalizeRoutingV2(expandedX: *const aclTensor, expandedRowIdx: *const aclTensor, x1Optional: *const aclTensor, x2Optional: *const aclTensor, biasOptional: *const aclTensor, scalesOptional: *const aclTensor, expertIdxOptional: *const aclTensor, dropPadMode: i64, out: *const aclTensor);
        OpsTransformer "8.1" MoeTokenUnpermute: aclnnMoeTokenUnpermuteGetWorkspaceSize, aclnnMoeTokenUnpermute(permutedTokens: *const aclTensor, sortedIndices: *const aclTensor, probsOptional: *const aclTensor, paddedMode: bool, restoreShapeOptional: *const aclIntArray, out: *mut aclTensor);
        OpsMath "8.5.0" NpuFormatCast: aclnnNpuFormatCastGetWorkspaceSize, aclnnNpuFormatCast(srcTensor: *const aclTensor, dstTensor: *mut aclTensor);
        OpsMath "8.1" Adds: aclnnAddsGetWorkspaceSize, aclnnAdds(self_: *const aclTensor, other: *const aclScalar, alpha: *const aclScalar, out: *mut aclTensor);
        OpsMath "8.1" Sub: aclnnSubGetWorkspaceSize, aclnnSub(self_: *const aclTensor, other: *const aclTensor, alpha: *const aclScalar, out: *mut aclTensor);
        OpsMath "8.1" Div: aclnnDivGetWorkspaceSize, aclnnDiv(self_: *const aclTensor, other: *const aclTensor, out: *mut aclTensor);
        OpsMath "8.1" Abs: aclnnAbsGetWorkspaceSize, aclnnAbs(self_: *const aclTensor, out: *mut aclTensor);
        OpsMath "8.1" Neg: aclnnNegGetWorkspaceSize, aclnnNeg(self_: *const aclTensor, out: *mut aclTensor);
        OpsMath "8.1" Exp: aclnnExpGetWorkspaceSize, aclnnExp(self_: *const aclTensor, out: *mut aclTensor);
        OpsMath "8.1" Sqrt: aclnnSqrtGetWorkspaceSize, aclnnSqrt(self_: *const aclTensor, out: *mut aclTensor);
        OpsMath "8.1" Maximum: aclnnMaximumGetWorkspaceSize, aclnnMaximum(self_: *const aclTensor, other: *const aclTensor, out: *mut aclTensor);
        OpsMath "8.1" Minimum: aclnnMinimumGetWorkspaceSize, aclnnMinimum(self_: *const aclTensor, other: *const aclTensor, out: *mut aclTensor);
        OpsMath "8.1" Clamp: aclnnClampGetWorkspaceSize, aclnnClamp(self_: *const aclTensor, clipValueMin: *const aclScalar, clipValueMax: *const aclScalar, out: *mut aclTensor);
        OpsMath "8.1" ClampMin: aclnnClampMinGetWorkspaceSize, aclnnClampMin(self_: *const aclTensor, clipValueMin: *const aclScalar, out: *mut aclTensor);
        OpsMath "8.1" EqScalar: aclnnEqScalarGetWorkspaceSize, aclnnEqScalar(self_: *const aclTensor, other: *const aclScalar, out: *mut aclTensor);
        OpsMath "8.1" LtScalar: aclnnLtScalarGetWorkspaceSize, aclnnLtScalar(self_: *const aclTensor, other: *const aclScalar, out: *mut aclTensor);
        OpsMath "8.1" GeScalar: aclnnGeScalarGetWorkspaceSize, aclnnGeScalar(self_: *const aclTensor, other: *const aclScalar, out: *mut aclTensor);
        OpsMath "8.1" SWhere: aclnnSWhereGetWorkspaceSize, aclnnSWhere(condition: *const aclTensor, self_: *const aclTensor, other: *const aclTensor, out: *mut aclTensor);
        OpsMath "8.1" InplaceMaskedFillScalar: aclnnInplaceMaskedFillScalarGetWorkspaceSize, aclnnInplaceMaskedFillScalar(selfRef: *mut aclTensor, mask: *const aclTensor, value: *const aclScalar);
        OpsMath "8.1" InplaceZero: aclnnInplaceZeroGetWorkspaceSize, aclnnInplaceZero(selfRef: *mut aclTensor);
        OpsMath "8.1" InplaceCopy: aclnnInplaceCopyGetWorkspaceSize, aclnnInplaceCopy(selfRef: *mut aclTensor, src: *const aclTensor);
        OpsMath "8.1" Arange: aclnnArangeGetWorkspaceSize, aclnnArange(start: *const aclScalar, end: *const aclScalar, step: *const aclScalar, out: *mut aclTensor);
        OpsMath "8.1" Sort: aclnnSortGetWorkspaceSize, aclnnSort(self_: *const aclTensor, stable: bool, dim: i64, descending: bool, valuesOut: *mut aclTensor, indicesOut: *mut aclTensor);
        OpsMath "8.1" Argsort: aclnnArgsortGetWorkspaceSize, aclnnArgsort(self_: *const aclTensor, dim: i64, descending: bool, out: *mut aclTensor);
        OpsMath "8.1" Cumsum: aclnnCumsumGetWorkspaceSize, aclnnCumsum(self_: *const aclTensor, dim: i64, dtype: aclDataType, out: *mut aclTensor);
        OpsMath "8.1" ReduceSum: aclnnReduceSumGetWorkspaceSize, aclnnReduceSum(self_: *const aclTensor, dims: *const aclIntArray, keepDims: bool, dtype: aclDataType, out: *mut aclTensor);
        OpsMath "8.1" Amax: aclnnAmaxGetWorkspaceSize, aclnnAmax(self_: *const aclTensor, dim: *const aclIntArray, keepDim: bool, out: *mut aclTensor);
        OpsMath "8.1" Cat: aclnnCatGetWorkspaceSize, aclnnCat(tensors: *const aclTensorList, dim: i64, out: *mut aclTensor);
        OpsMath "8.1" Permute: aclnnPermuteGetWorkspaceSize, aclnnPermute(self_: *const aclTensor, dims: *const aclIntArray, out: *mut aclTensor);
        OpsNn "8.1" Sigmoid: aclnnSigmoidGetWorkspaceSize, aclnnSigmoid(self_: *const aclTensor, out: *mut aclTensor);
        OpsNn "8.1" Silu: aclnnSiluGetWorkspaceSize, aclnnSilu(self_: *const aclTensor, out: *mut aclTensor);
        OpsNn "8.1" Softplus: aclnnSoftplusGetWorkspaceSize, aclnnSoftplus(self_: *const aclTensor, beta: *const aclScalar, threshold: *const aclScalar, out: *mut aclTensor);
        OpsNn "8.1" Relu: aclnnReluGetWorkspaceSize, aclnnRelu(self_: *const aclTensor, out: *const aclTensor);
        OpsNn "8.1" Gelu: aclnnGeluGetWorkspaceSize, aclnnGelu(self_: *const aclTensor, out: *mut aclTensor);
        OpsNn "8.1" Softmax: aclnnSoftmaxGetWorkspaceSize, aclnnSoftmax(self_: *const aclTensor, dim: i64, out: *mut aclTensor);
        OpsNn "8.1" Topk: aclnnTopkGetWorkspaceSize, aclnnTopk(self_: *const aclTensor, k: i64, dim: i64, largest: bool, sorted: bool, valuesOut: *mut aclTensor, indicesOut: *mut aclTensor);
        OpsNn "8.1" Gather: aclnnGatherGetWorkspaceSize, aclnnGather(self_: *const aclTensor, dim: i64, index: *const aclTensor, out: *mut aclTensor);
        OpsNn "8.1" GatherV2: aclnnGatherV2GetWorkspaceSize, aclnnGatherV2(self_: *const aclTensor, dim: i64, index: *const aclTensor, out: *mut aclTensor);
        OpsNn "8.1" Scatter: aclnnScatterGetWorkspaceSize, aclnnScatter(self_: *const aclTensor, dim: i64, index: *const aclTensor, src: *const aclTensor, reduce: i64, out: *mut aclTensor);
        OpsNn "8.1" IndexSelect: aclnnIndexSelectGetWorkspaceSize, aclnnIndexSelect(self_: *const aclTensor, dim: i64, index: *const aclTensor, out: *mut aclTensor);
        OpsNn "8.1" Embedding: aclnnEmbeddingGetWorkspaceSize, aclnnEmbedding(weight: *const aclTensor, indices: *const aclTensor, out: *const aclTensor);
        OpsNn "8.1" RmsNorm: aclnnRmsNormGetWorkspaceSize, aclnnRmsNorm(x: *const aclTensor, gamma: *const aclTensor, epsilon: f64, yOut: *const aclTensor, rstdOut: *const aclTensor);
        OpsNn "8.1" AddRmsNorm: aclnnAddRmsNormGetWorkspaceSize, aclnnAddRmsNorm(x1: *const aclTensor, x2: *const aclTensor, gamma: *const aclTensor, epsilon: f64, yOut: *mut aclTensor, rstdOut: *mut aclTensor, xOut: *mut aclTensor);
        OpsNn "8.1" BatchMatMul: aclnnBatchMatMulGetWorkspaceSize, aclnnBatchMatMul(self_: *const aclTensor, mat2: *const aclTensor, out: *mut aclTensor, cubeMathType: i8);
        OpsNn "8.1" Addmm: aclnnAddmmGetWorkspaceSize, aclnnAddmm(self_: *const aclTensor, mat1: *const aclTensor, mat2: *const aclTensor, beta: *const aclScalar, alpha: *const aclScalar, out: *mut aclTensor, cubeMathType: i8);
        OpsNn "8.5.0" ClippedSwiglu: aclnnClippedSwigluGetWorkspaceSize, aclnnClippedSwiglu(x: *const aclTensor, groupIndexOptional: *const aclTensor, dim: i64, alpha: f64, limit: f64, bias: f64, interleaved: bool, out: *const aclTensor);
        OpsNn "8.1" DynamicQuant: aclnnDynamicQuantGetWorkspaceSize, aclnnDynamicQuant(x: *const aclTensor, smoothScalesOptional: *const aclTensor, yOut: *const aclTensor, scaleOut: *const aclTensor);
        OpsNn "8.1" DynamicQuantV2: aclnnDynamicQuantV2GetWorkspaceSize, aclnnDynamicQuantV2(x: *const aclTensor, smoothScalesOptional: *const aclTensor, groupIndexOptional: *const aclTensor, dstType: i64, yOut: *const aclTensor, scaleOut: *const aclTensor, offsetOut: *const aclTensor);
        OpsNn "9.1.0" DynamicQuantV4: aclnnDynamicQuantV4GetWorkspaceSize, aclnnDynamicQuantV4(x: *const aclTensor, smoothScalesOptional: *const aclTensor, groupIndexOptional: *const aclTensor, dstType: i64, isSymmetrical: bool, quantMode: *const c_char, dstTypeMax: f32, yOut: *const aclTensor, scaleOut: *const aclTensor, offsetOut: *const aclTensor);
        OpsNn "8.1" DequantSwigluQuant: aclnnDequantSwigluQuantGetWorkspaceSize, aclnnDequantSwigluQuant(x: *const aclTensor, weightScaleOptional: *const aclTensor, activationScaleOptional: *const aclTensor, biasOptional: *const aclTensor, quantScaleOptional: *const aclTensor, quantOffsetOptional: *const aclTensor, groupIndexOptional: *const aclTensor, activateLeft: bool, quantModeOptional: *mut c_char, yOut: *const aclTensor, scaleOut: *const aclTensor);
        OpsNn "8.5.0" DequantSwigluQuantV2: aclnnDequantSwigluQuantV2GetWorkspaceSize, aclnnDequantSwigluQuantV2(x: *const aclTensor, weightScaleOptional: *const aclTensor, activationScaleOptional: *const aclTensor, biasOptional: *const aclTensor, quantScaleOptional: *const aclTensor, quantOffsetOptional: *const aclTensor, groupIndexOptional: *const aclTensor, activateLeft: bool, quantModeOptional: *mut c_char, dstType: i64, roundModeOptional: *mut c_char, activateDim: i64, swigluMode: i64, clampLimit: f64, gluAlpha: f64, gluBias: f64, yOut: *const aclTensor, scaleOut: *const aclTensor);
        OpsMath "8.1" TransMatmulWeight: aclnnTransMatmulWeightGetWorkspaceSize, aclnnTransMatmulWeight(mmWeightRef: *mut aclTensor);
        OpsTransformer "8.1" MoeGatingTopKSoftmax: aclnnMoeGatingTopKSoftmaxGetWorkspaceSize, aclnnMoeGatingTopKSoftmax(x: *const aclTensor, finishedOptional: *const aclTensor, k: i64, yOut: *const aclTensor, expertIdxOut: *const aclTensor, rowIdxOut: *const aclTensor);
        OpsTransformer "8.1" MoeGatingTopKSoftmaxV2: aclnnMoeGatingTopKSoftmaxV2GetWorkspaceSize, aclnnMoeGatingTopKSoftmaxV2(x: *const aclTensor, finishedOptional: *const aclTensor, k: i64, renorm: i64, outputSoftmaxResultFlag: bool, yOut: *const aclTensor, expertIdxOut: *const aclTensor, softmaxResultOutOptional: *const aclTensor);
        OpsTransformer "8.1" MoeTokenPermute: aclnnMoeTokenPermuteGetWorkspaceSize, aclnnMoeTokenPermute(tokens: *const aclTensor, indices: *const aclTensor, numOutTokens: i64, paddedMode: bool, permuteTokensOut: *const aclTensor, sortedIndicesOut: *const aclTensor);
        OpsTransformer "8.1" MoeComputeExpertTokens: aclnnMoeComputeExpertTokensGetWorkspaceSize, aclnnMoeComputeExpertTokens(sortedExperts: *const aclTensor, numExperts: i64, out: *const aclTensor);
        OpsTransformer "9.1.0" MoeFinalizeRoutingV3: aclnnMoeFinalizeRoutingV3GetWorkspaceSize, aclnnMoeFinalizeRoutingV3(expandedX: *const aclTensor, expandedRowIdx: *const aclTensor, x1Optional: *const aclTensor, x2Optional: *const aclTensor, biasOptional: *const aclTensor, scalesOptional: *const aclTensor, expertIdxOptional: *const aclTensor, xOptional: *const aclTensor, a1Optional: *const aclTensor, a2Optional: *const aclTensor, vOptional: *const aclTensor, dropPadMode: i64, zeroExpertRange: *const aclIntArray, copyExpertRange: *const aclIntArray, constantExpertRange: *const aclIntArray, out: *const aclTensor);
        OpsTransformer "8.1" MoeInitRouting: aclnnMoeInitRoutingGetWorkspaceSize, aclnnMoeInitRouting(x: *const aclTensor, rowIdx: *const aclTensor, expertIdx: *const aclTensor, activeNum: i64, expandedXOut: *const aclTensor, expandedRowIdxOut: *const aclTensor, expandedExpertIdxOut: *const aclTensor);
        OpsTransformer "8.1" MoeInitRoutingV2: aclnnMoeInitRoutingV2GetWorkspaceSize, aclnnMoeInitRoutingV2(x: *const aclTensor, expertIdx: *const aclTensor, activeNumOptional: i64, expertCapacityOptional: i64, expertNumOptional: i64, dropPadModeOptional: i64, expertTokensCountOrCumsumFlagOptional: i64, expertTokensBeforeCapacityFlagOptional: bool, expandedXOut: *const aclTensor, expandedRowIdxOut: *const aclTensor, expertTokensCountOrCumsumOutOptional: *const aclTensor, expertTokensBeforeCapacityOutOptional: *const aclTensor);
        OpsTransformer "8.1" MoeFinalizeRouting: aclnnMoeFinalizeRoutingGetWorkspaceSize, aclnnMoeFinalizeRouting(expandedX: *const aclTensor, x1: *const aclTensor, x2Optional: *const aclTensor, bias: *const aclTensor, scales: *const aclTensor, expandedRowIdx: *const aclTensor, expandedExpertIdx: *const aclTensor, out: *const aclTensor);
        OpsTransformer "8.5.0" MoeFusedTopk: aclnnMoeFusedTopkGetWorkspaceSize, aclnnMoeFusedTopk(x: *const aclTensor, addNum: *const aclTensor, mappingNum: *const aclTensor, mappingTable: *const aclTensor, groupNum: u32, groupTopk: u32, topN: u32, topK: u32, activateType: u32, isNorm: bool, scale: f32, enableExpertMapping: bool, y: *mut aclTensor, indices: *mut aclTensor);
        OpsTransformer "9.2.0" MoeGatingTopKV2: aclnnMoeGatingTopKV2GetWorkspaceSize, aclnnMoeGatingTopKV2(x: *const aclTensor, biasOptional: *const aclTensor, inputIdsOptional: *const aclTensor, tid2eidOptional: *const aclTensor, k: i64, kGroup: i64, groupCount: i64, groupSelectMode: i64, renorm: i64, normType: i64, outFlag: bool, routedScalingFactor: f64, eps: f64, yOut: *const aclTensor, expertIdxOut: *const aclTensor, outOut: *const aclTensor);
        OpsTransformer "8.5.0" MoeTokenPermuteWithEp: aclnnMoeTokenPermuteWithEpGetWorkspaceSize, aclnnMoeTokenPermuteWithEp(tokens: *const aclTensor, indices: *const aclTensor, probsOptional: *const aclTensor, rangeOptional: *const aclIntArray, numOutTokens: i64, paddedMode: bool, permuteTokensOut: *const aclTensor, sortedIndicesOut: *const aclTensor, permuteProbsOut: *const aclTensor);
        OpsTransformer "8.5.0" MoeTokenUnpermuteWithEp: aclnnMoeTokenUnpermuteWithEpGetWorkspaceSize, aclnnMoeTokenUnpermuteWithEp(permutedTokens: *const aclTensor, sortedIndices: *const aclTensor, probsOptional: *const aclTensor, numTopk: i64, rangeOptional: *const aclIntArray, paddedMode: bool, restoreShapeOptional: *const aclIntArray, out: *const aclTensor);
        OpsTransformer "8.5.0" MoeTokenPermuteWithRoutingMap: aclnnMoeTokenPermuteWithRoutingMapGetWorkspaceSize, aclnnMoeTokenPermuteWithRoutingMap(tokens: *const aclTensor, routingMap: *const aclTensor, probsOptional: *const aclTensor, numOutTokens: i64, dropAndPad: bool, permuteTokensOut: *mut aclTensor, permuteProbsOutOptional: *mut aclTensor, sortedIndicesOut: *mut aclTensor);
        OpsTransformer "8.5.0" MoeTokenUnpermuteWithRoutingMap: aclnnMoeTokenUnpermuteWithRoutingMapGetWorkspaceSize, aclnnMoeTokenUnpermuteWithRoutingMap(permutedTokens: *const aclTensor, sortedIndices: *const aclTensor, routingMapOptional: *const aclTensor, probsOptional: *const aclTensor, paddedMode: bool, restoreShapeOptional: *const aclIntArray, unpermutedTokens: *mut aclTensor, outIndex: *mut aclTensor, permuteTokenId: *mut aclTensor, permuteProbs: *mut aclTensor);
        OpsTransformer "8.5.0" MoeReRouting: aclnnMoeReRoutingGetWorkspaceSize, aclnnMoeReRouting(tokens: *const aclTensor, expertTokenNumPerRank: *const aclTensor, perTokenScalesOptional: *const aclTensor, expertTokenNumType: i64, idxType: i64, permuteTokensOut: *const aclTensor, permutePerTokenScalesOut: *const aclTensor, permuteTokenIdxOut: *const aclTensor, expertTokenNumOut: *const aclTensor);
        OpsTransformer "8.5.0" MoeUpdateExpert: aclnnMoeUpdateExpertGetWorkspaceSize, aclnnMoeUpdateExpert(expertIds: *const aclTensor, eplbTable: *const aclTensor, expertScalesOptional: *const aclTensor, pruningThresholdOptional: *const aclTensor, activeMaskOptional: *const aclTensor, localRankId: i64, worldSize: i64, balanceMode: i64, balancedExpertIds: *mut aclTensor, balancedActiveMask: *mut aclTensor);
        OpsTransformer "8.1" GroupedMatmul: aclnnGroupedMatmulGetWorkspaceSize, aclnnGroupedMatmul(x: *const aclTensorList, weight: *const aclTensorList, biasOptional: *const aclTensorList, scaleOptional: *const aclTensorList, offsetOptional: *const aclTensorList, antiquantScaleOptional: *const aclTensorList, antiquantOffsetOptional: *const aclTensorList, groupListOptional: *const aclIntArray, splitItem: i64, y: *const aclTensorList);
        OpsTransformer "8.1" GroupedMatmulV2: aclnnGroupedMatmulV2GetWorkspaceSize, aclnnGroupedMatmulV2(x: *const aclTensorList, weight: *const aclTensorList, biasOptional: *const aclTensorList, scaleOptional: *const aclTensorList, offsetOptional: *const aclTensorList, antiquantScaleOptional: *const aclTensorList, antiquantOffsetOptional: *const aclTensorList, groupListOptional: *const aclIntArray, splitItem: i64, groupType: i64, y: *const aclTensorList);
        OpsTransformer "8.1" GroupedMatmulV3: aclnnGroupedMatmulV3GetWorkspaceSize, aclnnGroupedMatmulV3(x: *const aclTensorList, weight: *const aclTensorList, biasOptional: *const aclTensorList, scaleOptional: *const aclTensorList, offsetOptional: *const aclTensorList, antiquantScaleOptional: *const aclTensorList, antiquantOffsetOptional: *const aclTensorList, groupListOptional: *const aclTensor, splitItem: i64, groupType: i64, y: *const aclTensorList);
        OpsTransformer "8.5.0" GroupedMatmulWeightNz: aclnnGroupedMatmulWeightNzGetWorkspaceSize, aclnnGroupedMatmulWeightNz(x: *const aclTensorList, weight: *const aclTensorList, biasOptional: *const aclTensorList, scaleOptional: *const aclTensorList, offsetOptional: *const aclTensorList, antiquantScaleOptional: *const aclTensorList, antiquantOffsetOptional: *const aclTensorList, perTokenScaleOptional: *const aclTensorList, groupListOptional: *const aclTensor, activationInputOptional: *const aclTensorList, activationQuantScaleOptional: *const aclTensorList, activationQuantOffsetOptional: *const aclTensorList, splitItem: i64, groupType: i64, groupListType: i64, actType: i64, tuningConfigOptional: *mut aclIntArray, quantGroupSize: i64, out: *mut aclTensorList, activationFeatureOutOptional: *mut aclTensorList, dynQuantScaleOutOptional: *mut aclTensorList);
        OpsTransformer "8.1" GroupedMatmulAdd: aclnnGroupedMatmulAddGetWorkspaceSize, aclnnGroupedMatmulAdd(x: *const aclTensor, weight: *const aclTensor, groupList: *const aclTensor, yRef: *mut aclTensor, transposeX: bool, transposeWeight: bool, groupType: i64);
        }
    } };
}
