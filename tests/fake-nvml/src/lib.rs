//! A driver library for tests: answers NVML calls from the control file that `$FAKE_NVML_STATE` names. Never shipped.
//! Does NOT keep state of its own: the file is read again on every call, so a test changes it under a running program.
//!
//! Lines of the file: `gpus N` (how many devices), `lost I` (device I has fallen off the bus), `proc I P` (process P, as long as it is
//! there, uses device I), `broken` (the driver does not start).

mod control;

use std::ffi::{CStr, c_char, c_uint, c_ulonglong, c_void};

use control::Control;

/// A result code of the C interface.
type Code = c_uint;

const SUCCESS: Code = 0;
const UNINITIALIZED: Code = 1;
const INVALID_ARGUMENT: Code = 2;
const NOT_FOUND: Code = 6;
const INSUFFICIENT_SIZE: Code = 7;
const GPU_IS_LOST: Code = 15;

const MODEL: &str = "NVIDIA H100 80GB HBM3";
const MEMORY_BYTES: u64 = 80 << 30;
const DRIVER: &str = "550.54.15";
const NVML: &str = "12.550.54.15";
const CUDA: i32 = 12_040;
/// Bytes of the text fields of [`Pci`].
const BUS_ID_LEGACY: usize = 16;
const BUS_ID: usize = 32;

/// `nvmlMemory_t`.
#[repr(C)]
pub struct Memory {
    total: c_ulonglong,
    free: c_ulonglong,
    used: c_ulonglong,
}

/// `nvmlMemory_v2_t`.
#[repr(C)]
pub struct MemoryV2 {
    version: c_uint,
    total: c_ulonglong,
    reserved: c_ulonglong,
    free: c_ulonglong,
    used: c_ulonglong,
}

/// `nvmlPciInfo_t`.
#[repr(C)]
pub struct Pci {
    bus_id_legacy: [c_char; BUS_ID_LEGACY],
    domain: c_uint,
    bus: c_uint,
    device: c_uint,
    pci_device_id: c_uint,
    pci_subsystem_id: c_uint,
    bus_id: [c_char; BUS_ID],
}

/// `nvmlUtilization_t`.
#[repr(C)]
pub struct Utilization {
    gpu: c_uint,
    memory: c_uint,
}

/// `nvmlProcessInfo_t`.
#[repr(C)]
pub struct Process {
    pid: c_uint,
    used_memory: c_ulonglong,
    gpu_instance: c_uint,
    compute_instance: c_uint,
}

/// A device handle: its index plus one, so that null is none.
type Handle = *mut c_void;

/// The index behind a handle, if the device answers.
fn answering(handle: Handle) -> Result<u32, Code> {
    let index = u32::try_from(handle.addr())
        .ok()
        .and_then(|number| number.checked_sub(1))
        .ok_or(INVALID_ARGUMENT)?;
    reachable(index).map(|()| index)
}

fn reachable(index: u32) -> Result<(), Code> {
    let control = Control::read();
    match control {
        control if index >= control.gpus => Err(INVALID_ARGUMENT),
        control if control.lost.contains(&index) => Err(GPU_IS_LOST),
        _ => Ok(()),
    }
}

fn code(result: Result<(), Code>) -> Code {
    result.err().unwrap_or(SUCCESS)
}

/// Writes `value` where the caller wants it.
fn put<T>(to: *mut T, value: T) -> Result<(), Code> {
    if to.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    // SAFETY: not null, and the C interface promises room for one properly aligned `T`.
    unsafe { to.write(value) };
    Ok(())
}

/// Writes `text` with its end into `length` bytes at `to`.
fn put_text(text: &str, to: *mut c_char, length: c_uint) -> Result<(), Code> {
    if to.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    if text.len() >= length as usize {
        return Err(INSUFFICIENT_SIZE);
    }
    // SAFETY: not null, and the caller says that `length` bytes are his; the text and its end fit, as was just checked.
    unsafe {
        to.copy_from_nonoverlapping(text.as_ptr().cast(), text.len());
        to.add(text.len()).write(0);
    }
    Ok(())
}

/// The text that a caller gives, without its end.
fn text_at<'a>(text: *const c_char) -> Result<&'a [u8], Code> {
    if text.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    // SAFETY: not null, and the C interface promises a text with its end that lives as long as the call.
    Ok(unsafe { CStr::from_ptr(text) }.to_bytes())
}

fn fixed<const N: usize>(text: &str) -> [c_char; N] {
    let mut out = [0; N];
    let bytes = text.bytes().take(N - 1);
    out.iter_mut()
        .zip(bytes)
        .for_each(|(to, byte)| *to = byte as c_char);
    out
}

/// Starts the driver, unless the control file says `broken`.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlInit_v2() -> Code {
    if Control::read().broken {
        UNINITIALIZED
    } else {
        SUCCESS
    }
}

/// Ends it.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlShutdown() -> Code {
    SUCCESS
}

/// A code as text.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlErrorString(code: Code) -> *const c_char {
    let text = match code {
        SUCCESS => c"Success",
        GPU_IS_LOST => c"GPU is lost",
        _ => c"Error",
    };
    text.as_ptr()
}

/// Counts the devices, lost ones too.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetCount_v2(count: *mut c_uint) -> Code {
    code(put(count, Control::read().gpus))
}

/// A handle, if the device answers.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, handle: *mut Handle) -> Code {
    let made = std::ptr::without_provenance_mut(index as usize + 1);
    code(reachable(index).and_then(|()| put(handle, made)))
}

/// A handle by UUID, if the device answers.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetHandleByUUID(uuid: *const c_char, handle: *mut Handle) -> Code {
    let place = text_at(uuid).map(|wanted| {
        let is = |index: &u32| wanted == uuid_of(*index).as_bytes();
        (0..Control::read().gpus).find(is)
    });
    match place {
        Ok(Some(index)) => nvmlDeviceGetHandleByIndex_v2(index, handle),
        Ok(None) => NOT_FOUND,
        Err(code) => code,
    }
}

/// The processes that use the device: how many if the room is too small, as the real one does.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetComputeRunningProcesses_v3(
    handle: Handle,
    count: *mut c_uint,
    to: *mut Process,
) -> Code {
    code(answering(handle).and_then(|index| put_processes(index, count, to)))
}

fn put_processes(index: u32, count: *mut c_uint, to: *mut Process) -> Result<(), Code> {
    let there = |pid: &u32| std::path::Path::new(&format!("/proc/{pid}")).exists();
    let all = Control::read().processes;
    let on_device = all.into_iter().filter(|(device, _)| *device == index);
    let pids: Vec<u32> = on_device.map(|(_, pid)| pid).filter(there).collect();
    if count.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    // SAFETY: not null, and the C interface promises a number there.
    let room = unsafe { count.read() } as usize;
    put(count, pids.len() as c_uint)?;
    if room < pids.len() {
        return Err(INSUFFICIENT_SIZE);
    }
    for (place, pid) in pids.into_iter().enumerate() {
        let process = Process {
            pid,
            used_memory: 1 << 30,
            gpu_instance: c_uint::MAX,
            compute_instance: c_uint::MAX,
        };
        // SAFETY: the caller says that there is room for `room` of them, and `place` is below.
        put(unsafe { to.add(place) }, process)?;
    }
    Ok(())
}

/// The device's UUID.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetUUID(handle: Handle, to: *mut c_char, length: c_uint) -> Code {
    code(answering(handle).and_then(|index| put_text(&uuid_of(index), to, length)))
}

fn uuid_of(index: u32) -> String {
    format!("GPU-fa4e0000-0000-4000-8000-{index:012x}")
}

/// The device's model.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetName(handle: Handle, to: *mut c_char, length: c_uint) -> Code {
    code(answering(handle).and_then(|_| put_text(MODEL, to, length)))
}

/// The device's place among the others.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetIndex(handle: Handle, to: *mut c_uint) -> Code {
    code(answering(handle).and_then(|index| put(to, index)))
}

/// The device's memory, first version.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetMemoryInfo(handle: Handle, to: *mut Memory) -> Code {
    let memory = Memory {
        total: MEMORY_BYTES,
        free: MEMORY_BYTES,
        used: 0,
    };
    code(answering(handle).and_then(|_| put(to, memory)))
}

/// The device's memory, second version.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetMemoryInfo_v2(handle: Handle, to: *mut MemoryV2) -> Code {
    let version = size_of::<MemoryV2>() as c_uint | 2 << 24;
    let memory = MemoryV2 {
        version,
        total: MEMORY_BYTES,
        reserved: 0,
        free: MEMORY_BYTES,
        used: 0,
    };
    code(answering(handle).and_then(|_| put(to, memory)))
}

/// The device's place on the bus.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetPciInfo_v3(handle: Handle, to: *mut Pci) -> Code {
    let pci = |index: u32| Pci {
        bus_id_legacy: fixed(&format!("0000:{:02x}:00.0", index + 1)),
        domain: 0,
        bus: index + 1,
        device: 0,
        pci_device_id: 0x2330_10de,
        pci_subsystem_id: 0,
        bus_id: fixed(&format!("00000000:{:02X}:00.0", index + 1)),
    };
    code(answering(handle).and_then(|index| put(to, pci(index))))
}

/// How busy the device is: not at all.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetUtilizationRates(handle: Handle, to: *mut Utilization) -> Code {
    code(answering(handle).and_then(|_| put(to, Utilization { gpu: 0, memory: 0 })))
}

/// The driver's version.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlSystemGetDriverVersion(to: *mut c_char, length: c_uint) -> Code {
    code(put_text(DRIVER, to, length))
}

/// The library's version.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlSystemGetNVMLVersion(to: *mut c_char, length: c_uint) -> Code {
    code(put_text(NVML, to, length))
}

/// The version of CUDA that the driver brings.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlSystemGetCudaDriverVersion_v2(to: *mut i32) -> Code {
    code(put(to, CUDA))
}
