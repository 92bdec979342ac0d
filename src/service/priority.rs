//! The priority of this program among others.

use std::io;

use ioprio::{Class, Pid, Priority, Target};

use crate::model::IoPriority;

/// The lowest priority for the processor.
const NICENESS: i32 = 19;

/// Sets the priority of this thread and of all that it starts from now on. So call this before any is started.
///
/// # Errors
/// If the kernel or a sandbox refuses it.
pub fn set_priority(priority: IoPriority) -> io::Result<()> {
    if priority == IoPriority::Idle {
        rustix::process::nice(NICENESS)?;
        ioprio::set_priority(Target::Process(Pid::this()), Priority::new(Class::Idle)).map_err(io::Error::other)?;
    }
    Ok(())
}
