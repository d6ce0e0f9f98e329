//! What crosses the C boundary: byte ranges in, owned buffers and a status out. No
//! panic passes it.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::slice;

/// Whose mistake a failure is; the C++ side turns each into an exception type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Status {
    Ok = 0,
    /// The caller's argument.
    Argument = 1,
    /// The file that was loaded.
    File = 2,
    /// Ours.
    Bug = 3,
}

#[derive(Debug)]
pub struct Failure {
    pub status: Status,
    pub message: String,
}

impl Failure {
    pub fn argument(message: impl Into<String>) -> Failure {
        Failure { status: Status::Argument, message: message.into() }
    }

    pub fn file(message: impl Into<String>) -> Failure {
        Failure { status: Status::File, message: message.into() }
    }

    pub fn bug(message: impl Into<String>) -> Failure {
        Failure { status: Status::Bug, message: message.into() }
    }
}

pub type Outcome<T> = Result<T, Failure>;

/// Bytes that the caller owns and that outlive the call.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Slice<T> {
    data: *const T,
    size: usize,
}

impl<T> Slice<T> {
    /// # Safety
    /// `data` points at `size` values, or `size` is 0.
    pub unsafe fn get<'a>(self) -> &'a [T] {
        if self.size == 0 {
            &[]
        } else {
            slice::from_raw_parts(self.data, self.size)
        }
    }
}

/// # Safety
/// As for `Slice::get`.
pub unsafe fn text<'a>(bytes: Slice<u8>) -> Outcome<&'a str> {
    let bytes = bytes.get();
    std::str::from_utf8(bytes).map_err(|error| {
        let at = error.valid_up_to();
        Failure::argument(format!("the text is not UTF-8: byte 0x{:02x} at offset {at}", bytes[at]))
    })
}

/// Values that this library allocated; `optiq_free_*` gives them back.
#[repr(C)]
pub struct Buffer<T> {
    data: *mut T,
    size: usize,
}

impl<T> Buffer<T> {
    pub fn new(values: Vec<T>) -> Buffer<T> {
        let values = Box::leak(values.into_boxed_slice());
        Buffer { data: values.as_mut_ptr(), size: values.len() }
    }

    unsafe fn free(self) {
        if !self.data.is_null() {
            drop(Box::from_raw(std::ptr::slice_from_raw_parts_mut(self.data, self.size)));
        }
    }
}

#[no_mangle]
pub unsafe extern "C" fn optiq_free_bytes(buffer: Buffer<u8>) {
    buffer.free();
}

#[no_mangle]
pub unsafe extern "C" fn optiq_free_ids(buffer: Buffer<u32>) {
    buffer.free();
}

#[no_mangle]
pub unsafe extern "C" fn optiq_free_offsets(buffer: Buffer<usize>) {
    buffer.free();
}

/// Runs the body of an exported function; a failure or a panic becomes its text in
/// `error` and its kind in the status.
///
/// # Safety
/// `error` points at a writable buffer.
pub unsafe fn guard(error: *mut Buffer<u8>, body: impl FnOnce() -> Outcome<()>) -> Status {
    let failure = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => return Status::Ok,
        Ok(Err(failure)) => failure,
        Err(panic) => Failure::bug(panic_text(panic)),
    };
    error.write(Buffer::new(failure.message.into_bytes()));
    failure.status
}

pub fn panic_text(panic: Box<dyn std::any::Any + Send>) -> String {
    let text = panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()))
        .unwrap_or_default();
    format!("the text library panicked: {text}")
}
