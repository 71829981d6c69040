//! CPU time of a runtime, in milliseconds.

use crate::Result;

/// CPU time of the server, with all its threads and all its children that have ended. Monitors are its
/// children, and their share includes the children that they have reaped: proc_pid_stat(5) `utime` to
/// `cstime`.
///
/// # Errors
/// When the process has ended.
pub fn of_tree(pid: i32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = text.rsplit_once(')').ok_or("no command in the stat line")?.1;
    // The first of these is field 3.
    let times: Vec<f64> =
        fields.split_whitespace().skip(11).take(4).map(str::parse).collect::<Result<_, _>>()?;
    Ok(times.iter().sum::<f64>() * TICK)
}

/// CPU time of the whole machine except for this process: all that a runtime causes, when the machine does
/// nothing else. It is the only value for a runtime whose helpers are not its children.
///
/// # Errors
/// When /proc is not mounted.
pub fn of_others() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().ok_or("/proc/stat is empty")?;
    // proc_stat(5): user nice system idle iowait irq softirq steal.
    let fields: Vec<f64> =
        line.split_whitespace().skip(1).take(7).map(str::parse).collect::<Result<_, _>>()?;
    let busy = fields.iter().enumerate().filter(|(at, _)| ![3, 4].contains(at)).map(|(_, value)| value);
    Ok(busy.sum::<f64>() * TICK - of_tree(std::process::id().cast_signed())?)
}

/// Milliseconds of one unit: time(7) `USER_HZ` is 100 on x86 and ARM.
const TICK: f64 = 10.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_of_this_process_and_its_children_counts() {
        let pid = std::process::id().cast_signed();
        let before = of_tree(pid).unwrap();
        let line = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        assert!(std::process::Command::new("sh").args(["-c", line]).status().unwrap().success());
        let used = of_tree(pid).unwrap() - before;
        assert!(used >= 20.0, "{used} ms");
    }
}
