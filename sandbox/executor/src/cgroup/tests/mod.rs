//! Cgroups against plain folders that look like the kernel's, and against the kernel itself.

mod fake;
mod real;
