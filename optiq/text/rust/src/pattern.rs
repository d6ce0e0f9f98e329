//! Regular expressions that files bring: matched in time linear in the text.

use regex::{Regex, RegexBuilder};

use crate::boundary::{guard, text, Buffer, Failure, Slice, Status};

/// Compiled, a pattern may take so many bytes.
const SIZE_LIMIT: usize = 1 << 20;

/// # Safety
/// As for every exported function: the slices are valid, the outputs writable.
#[no_mangle]
pub unsafe extern "C" fn optiq_pattern_new(
    source: Slice<u8>,
    out: *mut *mut Regex,
    error: *mut Buffer<u8>,
) -> Status {
    guard(error, || {
        let regex = RegexBuilder::new(text(source)?)
            .size_limit(SIZE_LIMIT)
            .build()
            .map_err(|error| Failure::argument(error.to_string().replace('\n', " ")))?;
        out.write(Box::into_raw(Box::new(regex)));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn optiq_pattern_free(pattern: *mut Regex) {
    drop(Box::from_raw(pattern));
}

#[no_mangle]
pub unsafe extern "C" fn optiq_pattern_is_match(pattern: &Regex, subject: Slice<u8>) -> bool {
    text(subject).map(|subject| pattern.is_match(subject)).unwrap_or(false)
}
