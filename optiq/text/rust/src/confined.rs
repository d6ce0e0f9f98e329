//! Runs work that strangers wrote on a thread of its own, with a deep stack, a budget of
//! memory and a deadline.
//!
//! A thread cannot be ended from outside. One that overruns is left behind: it stops
//! for good at its next allocation, and its caller gets an error at once. Only work that
//! runs on without allocating would keep a core busy; callers must not start it again.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{channel, RecvTimeoutError};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::boundary::{panic_text, Failure, Outcome};

const STACK_BYTES: usize = 256 << 20;
const POLL: Duration = Duration::from_millis(20);

pub struct Limits {
    pub memory_bytes: usize,
    pub time: Duration,
}

thread_local! {
    /// What this thread may still allocate; only confined threads have a budget.
    static BUDGET: Cell<i64> = const { Cell::new(i64::MAX) };
    static OVERRUN: Cell<*const AtomicBool> = const { Cell::new(std::ptr::null()) };
}

struct Budgeted;

#[global_allocator]
static ALLOCATOR: Budgeted = Budgeted;

fn spend(size: usize) {
    // Fails only while a thread ends, when nothing is counted any more.
    let _ = BUDGET.try_with(|budget| {
        let left = budget.get();
        if left != i64::MAX {
            budget.set(left.saturating_sub(size as i64));
            check(budget.get());
        }
    });
}

fn check(left: i64) {
    let overrun = OVERRUN.get();
    // SAFETY: the flag is owned by a closure of this very thread.
    let overrun = unsafe { overrun.as_ref() };
    if overrun.is_some_and(|overrun| left < 0 || overrun.load(Relaxed)) {
        overrun.inspect(|overrun| overrun.store(true, Relaxed));
        loop {
            // SAFETY: plain system call; an allocator may neither unwind nor fail here.
            unsafe { libc::pause() };
        }
    }
}

// SAFETY: every call goes to the system's allocator, or never returns.
unsafe impl GlobalAlloc for Budgeted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        spend(layout.size());
        System.alloc(layout)
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        spend(layout.size());
        System.alloc_zeroed(layout)
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let _ = BUDGET.try_with(|budget| {
            if budget.get() != i64::MAX {
                budget.set(budget.get().saturating_add(layout.size() as i64));
            }
        });
        System.dealloc(pointer, layout);
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        spend(size.saturating_sub(layout.size()));
        System.realloc(pointer, layout, size)
    }
}

/// The result of `body`, or none if it went over a limit.
pub fn confined<T: Send + 'static>(
    limits: Limits,
    body: impl FnOnce() -> Outcome<T> + Send + 'static,
) -> Option<Outcome<T>> {
    let overrun = Arc::new(AtomicBool::new(false));
    let (sender, receiver) = channel();
    let flag = overrun.clone();
    let thread = std::thread::Builder::new().name("optiq-template".into()).stack_size(STACK_BYTES);
    let started = thread.spawn(move || {
        OVERRUN.set(Arc::as_ptr(&flag));
        BUDGET.set(limits.memory_bytes as i64);
        let result = catch_unwind(AssertUnwindSafe(body));
        BUDGET.set(i64::MAX);
        let result = result.unwrap_or_else(|panic| Err(Failure::bug(panic_text(panic))));
        // The caller may have gone.
        let _ = sender.send(result);
    });
    if let Err(error) = started {
        return Some(Err(Failure::bug(format!("no thread for the chat template: {error}"))));
    }
    let deadline = Instant::now() + limits.time;
    loop {
        match receiver.recv_timeout(POLL) {
            Ok(result) => return Some(result),
            Err(RecvTimeoutError::Timeout)
                if !overrun.load(Relaxed) && Instant::now() < deadline => {}
            Err(_) => {
                overrun.store(true, Relaxed);
                return None;
            }
        }
    }
}
