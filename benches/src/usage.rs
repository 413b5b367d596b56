//! What a process uses, as Linux counts it: memory, processor time, threads, file descriptors. And what a
//! directory takes on the disk.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// What a process uses.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// Resident memory now.
    pub(crate) resident_bytes: f64,
    /// The most that it ever was (`VmHWM`).
    pub(crate) peak_bytes: f64,
    /// Processor time since the process began, of all its threads, in user and kernel mode.
    pub(crate) cpu_seconds: f64,
    pub(crate) threads: f64,
    pub(crate) file_descriptors: f64,
}

/// The running child of this process that bears this name. The harness mostly starts each program once at a time.
pub(crate) fn child(name: &str) -> Option<u32> {
    children(name).into_iter().next()
}

/// All running children of this process that bear this name.
pub(crate) fn children(name: &str) -> Vec<u32> {
    let running =
        |(pid, command, state): (u32, String, String)| (command == name && state != "Z").then_some(pid);
    children_of(std::process::id()).filter_map(running).collect()
}

/// A process's children: id, name, state.
fn children_of(parent: u32) -> impl Iterator<Item = (u32, String, String)> {
    let parent = parent.to_string();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(move |entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let (command, fields) = stat(pid)?;
        (fields[1] == parent).then(|| (pid, command, fields[0].clone()))
    })
}

impl Usage {
    /// None once the process has ended.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let number = |name: &str| -> Option<f64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            line.trim().trim_end_matches(" kB").parse().ok()
        };
        let (_, fields) = stat(pid)?;
        // User and system time are the 14th and 15th field; the first of `fields` is the third.
        let ticks: f64 = fields[11].parse::<f64>().ok()? + fields[12].parse::<f64>().ok()?;
        Some(Self {
            resident_bytes: number("VmRSS")? * 1024.0,
            peak_bytes: number("VmHWM")? * 1024.0,
            cpu_seconds: ticks / rustix::param::clock_ticks_per_second() as f64,
            threads: number("Threads")?,
            file_descriptors: fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count() as f64,
        })
    }

    /// Of the process and its children together; the most memory is the sum of each one's.
    pub(crate) fn of_family(pid: u32) -> Option<Self> {
        let children = children_of(pid).filter_map(|(child, ..)| Self::of(child));
        let own = Self::of(pid)?;
        Some(children.fold(own, |all, child| Self {
            resident_bytes: all.resident_bytes + child.resident_bytes,
            peak_bytes: all.peak_bytes + child.peak_bytes,
            cpu_seconds: all.cpu_seconds + child.cpu_seconds,
            threads: all.threads + child.threads,
            file_descriptors: all.file_descriptors + child.file_descriptors,
        }))
    }
}

/// A process's name, and the fields of `/proc/PID/stat` after it.
fn stat(pid: u32) -> Option<(String, Vec<String>)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (before, after) = text.rsplit_once(')')?;
    let (_, command) = before.split_once('(')?;
    Some((command.to_owned(), after.split_whitespace().map(str::to_owned).collect()))
}

/// Bytes that a file or directory takes on the disk: not what sparse files pretend to.
pub(crate) fn disk_bytes(path: &Path) -> f64 {
    let Ok(metadata) = fs::symlink_metadata(path) else { return 0.0 };
    let own = metadata.blocks() as f64 * 512.0;
    if !metadata.is_dir() {
        return own;
    }
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    own + entries.map(|entry| disk_bytes(&entry.path())).sum::<f64>()
}

/// Bytes as people read them, to a tenth of a MB.
pub(crate) fn mb(bytes: f64) -> f64 {
    (bytes / 1e5).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_process_uses_something() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.resident_bytes > 0.0 && usage.peak_bytes >= usage.resident_bytes, "{usage:?}");
        assert!(usage.threads >= 1.0 && usage.file_descriptors >= 3.0, "{usage:?}");
    }

    #[test]
    fn children_are_of_the_family() {
        // A shell whose child reads until this test lets go of it.
        let mut shell = std::process::Command::new("sh");
        let mut shell = shell.args(["-c", "cat; true"]).stdin(std::process::Stdio::piped()).spawn().unwrap();
        hookline_tests::wait::until("a shell with its child", std::time::Duration::from_secs(30), || {
            let (own, family) = (Usage::of(shell.id())?, Usage::of_family(shell.id())?);
            (family.threads == 2.0 && family.peak_bytes > own.peak_bytes).then_some(())
        });
        drop(shell.stdin.take());
        shell.wait().unwrap();
    }

    #[test]
    fn a_sparse_file_takes_no_room() {
        let dir = tempfile::tempdir().unwrap();
        fs::File::create(dir.path().join("sparse")).unwrap().set_len(10_000_000).unwrap();
        fs::write(dir.path().join("full"), vec![1; 100_000]).unwrap();
        let bytes = disk_bytes(dir.path());
        assert!((100_000.0..1_000_000.0).contains(&bytes), "{bytes}");
    }
}
