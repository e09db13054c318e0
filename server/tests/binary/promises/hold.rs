//! A disk that takes its time, without a disk that does.

use std::{fs, io, marker::PhantomData, path::Path, ptr};

use crate::vat::Vat;

/// Holds the thread that writes a vat's journal, so that nothing becomes durable, and nothing is even
/// written, until this is dropped; everything else of the vat goes on. It belongs to the thread that made it,
/// as the kernel has it with tracers.
pub struct Hold {
    thread: libc::pid_t,
    of_this_thread: PhantomData<*const ()>,
}

impl Hold {
    /// # Panics
    ///
    /// If this process may not trace its children, as in a container that forbids `ptrace`.
    pub fn journal(vat: &Vat) -> Hold {
        let thread = thread(vat.id(), "journal");
        trace(libc::PTRACE_SEIZE, thread).expect("a test may trace its child");
        trace(libc::PTRACE_INTERRUPT, thread).unwrap();
        wait(thread);
        Hold {
            thread,
            of_this_thread: PhantomData,
        }
    }

    /// Ends the vat as a crash would, without letting go of its journal before: of what was held nothing is
    /// on disk. Returns what the vat had said on stderr.
    pub fn kill(self, vat: Vat) -> String {
        vat.signal(libc::SIGKILL);
        drop(self);
        vat.kill()
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if trace(libc::PTRACE_DETACH, self.thread).is_err() {
            // It was killed: the process does not end before its tracer has seen that.
            wait(self.thread);
        }
    }
}

/// The thread of that name.
fn thread(process: libc::pid_t, name: &str) -> libc::pid_t {
    let threads = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let mut threads = threads.map(|thread| thread.unwrap().path());
    // A thread may have ended meanwhile.
    let name_of = |thread: &Path| fs::read_to_string(thread.join("comm")).unwrap_or_default();
    let thread = threads
        .find(|thread| name_of(thread).trim_end() == name)
        .unwrap_or_else(|| panic!("no thread `{name}`"));
    thread
        .file_name()
        .unwrap()
        .to_str()
        .unwrap()
        .parse()
        .unwrap()
}

fn trace(request: libc::c_uint, thread: libc::pid_t) -> io::Result<()> {
    let nothing = ptr::null_mut::<libc::c_void>();
    // SAFETY: these requests read and write no memory of ours.
    match unsafe { libc::ptrace(request, thread, nothing, nothing) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Waits until the thread has stopped, or ended.
fn wait(thread: libc::pid_t) {
    // SAFETY: a null pointer asks for no status.
    let waited = unsafe { libc::waitpid(thread, ptr::null_mut(), libc::__WALL) };
    assert_eq!(waited, thread, "{}", io::Error::last_os_error());
}
