//! Running the built `nyxc` on a folder of hostile files, with its memory measured.

use super::folder::Folder;
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::OnceLock;

/// What a refused file may cost besides ten times itself, in bytes.
const SLACK_BYTES: u64 = 100_000_000;
/// CPU seconds after which a child counts as hanging.
const CPU_S: u64 = 60;

/// Something that is in the folder.
pub enum Item {
    Bytes(Vec<u8>),
    /// A symbolic link to this path.
    Link(PathBuf),
    /// A named pipe.
    Pipe,
    Folder,
}

/// One file, or several, and what is done with it.
pub struct Case {
    pub name: String,
    pub items: Vec<(String, Item)>,
    /// `out.nyx` and `out.npz` are outputs; names of items are found in the folder.
    pub args: Vec<String>,
    /// Exit codes that are right.
    pub codes: &'static [i32],
    /// What the message must have, where it is known.
    pub says: &'static str,
}

impl Case {
    /// A case of one file.
    pub fn of(name: impl Into<String>, file: &str, bytes: Vec<u8>, args: &[&str], codes: &'static [i32]) -> Case {
        let args = args.iter().map(|a| (*a).to_owned()).collect();
        Case { name: name.into(), items: vec![(file.to_owned(), Item::Bytes(bytes))], args, codes, says: "" }
    }

    pub fn with(mut self, file: &str, item: Item) -> Case {
        self.items.push((file.to_owned(), item));
        self
    }

    pub fn says(mut self, says: &'static str) -> Case {
        self.says = says;
        self
    }
}

/// How a child ended.
pub struct Done {
    pub status: ExitStatus,
    pub err: String,
    /// The most memory it held, in bytes.
    pub rss_bytes: u64,
}

/// Runs `nyxc` in `dir`. The memory that is measured begins with what this process has when it forks: it is to hold few
/// files at a time.
#[expect(clippy::zombie_processes, reason = "wait4 below waits for it")]
pub fn nyxc(args: &[String], dir: &Path, cache: &Path) -> Done {
    let stderr = cache.join(format!("stderr-{:?}", std::thread::current().id()));
    let mut command = Command::new(env!("CARGO_BIN_EXE_nyxc"));
    command.args(args).current_dir(dir).env("NYXC_CACHE", cache).stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(std::fs::File::create(&stderr).unwrap());
    // SAFETY: both calls are async-signal-safe and touch nothing but the child's own limits.
    unsafe {
        command.pre_exec(|| {
            let limit = libc::rlimit { rlim_cur: CPU_S, rlim_max: CPU_S };
            libc::setrlimit(libc::RLIMIT_CPU, &limit);
            // A child that waits forever uses no CPU.
            libc::alarm(240);
            Ok(())
        });
    }
    let child = command.spawn().unwrap();
    let pid = libc::pid_t::try_from(child.id()).unwrap();
    let (mut status, mut usage) = (0, std::mem::MaybeUninit::<libc::rusage>::zeroed());
    // SAFETY: the process is our child, nobody else waits for it, and both pointers are valid for writing.
    let waited = unsafe { libc::wait4(pid, &mut status, 0, usage.as_mut_ptr()) };
    assert_eq!(waited, pid, "wait4: {}", std::io::Error::last_os_error());
    // SAFETY: wait4 succeeded, so it is filled; zeros would be valid too.
    let usage = unsafe { usage.assume_init() };
    let mut err = Vec::new();
    std::fs::File::open(&stderr).unwrap().take(1 << 20).read_to_end(&mut err).unwrap();
    let rss_bytes = u64::try_from(usage.ru_maxrss).unwrap() * 1024;
    Done { status: ExitStatus::from_raw(status), err: String::from_utf8_lossy(&err).into_owned(), rss_bytes }
}

/// What `nyxc --version` takes, in bytes.
pub fn baseline_bytes(folder: &Folder) -> u64 {
    static BASELINE: OnceLock<u64> = OnceLock::new();
    *BASELINE.get_or_init(|| {
        let args = ["--version".to_owned()];
        (0..3).map(|_| nyxc(&args, &folder.0, &folder.0).rss_bytes).max().unwrap()
    })
}

/// Runs every case and fails with all that went wrong. Says how many files were refused, and the most memory that a
/// refused one took.
pub fn check(reader: &str, cases: impl Iterator<Item = Case>) {
    let (folder, cache) = (Folder::new(&format!("{reader}-in")), Folder::new(&format!("{reader}-cache")));
    let baseline = baseline_bytes(&cache);
    let (mut faults, mut n, mut refused, mut worst) = (Vec::new(), 0, 0, 0u64);
    for case in cases {
        let mut bytes = 0;
        for (name, item) in &case.items {
            let path = folder.0.join(name);
            match item {
                Item::Bytes(data) => {
                    bytes += data.len() as u64;
                    std::fs::write(path, data).unwrap();
                }
                Item::Link(to) => std::os::unix::fs::symlink(to, path).unwrap(),
                Item::Folder => std::fs::create_dir(path).unwrap(),
                Item::Pipe => assert!(Command::new("mkfifo").arg(path).status().unwrap().success()),
            }
        }
        let before = folder.names();
        let done = nyxc(&case.args, &folder.0, &cache.0);
        let mut wrong = Vec::new();
        let code = done.status.code();
        if code.is_none_or(|code| !case.codes.contains(&code)) {
            wrong.push(format!("ended with {}, expected one of {:?}", done.status, case.codes));
        }
        if done.err.contains("panicked") || done.err.contains("overflowed its stack") {
            wrong.push("panicked".to_owned());
        }
        if code != Some(0) {
            refused += 1;
            if folder.names() != before {
                wrong.push(format!("left {:?} of {before:?}", folder.names()));
            }
            let limit = baseline + 10 * bytes + SLACK_BYTES;
            worst = worst.max(done.rss_bytes.saturating_sub(baseline));
            if done.rss_bytes > limit {
                wrong.push(format!(
                    "took {} bytes for {bytes} bytes of files, at most {limit} are right",
                    done.rss_bytes
                ));
            }
            if !names_a_place(&done.err, &case) {
                wrong.push("its message names no place".to_owned());
            }
        }
        if !done.err.contains(case.says) {
            wrong.push(format!("its message does not have {:?}", case.says));
        }
        if !wrong.is_empty() {
            let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("strangers-failed-{reader}-{n}"));
            let _ = std::fs::remove_dir_all(&kept);
            std::fs::rename(&folder.0, &kept).unwrap();
            std::fs::create_dir_all(&folder.0).unwrap();
            let err: String = done.err.chars().take(600).collect();
            faults.push(format!(
                "{} (nyxc {}; kept in {}): {}\n  {err}",
                case.name,
                case.args.join(" "),
                kept.display(),
                wrong.join("; ")
            ));
        } else {
            std::fs::remove_dir_all(&folder.0).unwrap();
            std::fs::create_dir_all(&folder.0).unwrap();
        }
        n += 1;
    }
    println!(
        "{reader}: {n} files, {refused} refused, {} faults; a refused one took at most {worst} bytes over `--version` ({baseline})",
        faults.len()
    );
    assert!(n > 0, "{reader}: no case");
    assert!(faults.is_empty(), "{reader}: {} of {n} files\n{}", faults.len(), faults.join("\n"));
}

/// Whether the message says where: the file's name, or something in it with its name or number (`node "culprit"`, `line
/// 3`, `%x`).
fn names_a_place(err: &str, case: &Case) -> bool {
    if !err.lines().any(|line| line.starts_with("nyxc: ")) {
        return false;
    }
    // An argument without a dot is a command or a word.
    let mut files = case.items.iter().map(|(name, _)| name).chain(&case.args).filter(|name| name.contains('.'));
    files.any(|name| err.contains(name.as_str())) || has_element(err)
}

const ELEMENTS: &[&str] = &["element", "node", "tensor", "line", "plan", "constant", "shader", "input", "output"];

/// Whether the text has an element that a name in quotes or a number follows, or the name of a value of the textual
/// form.
fn has_element(text: &str) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    // "The largest tensor is \"x\"."
    let words: Vec<&str> = text.split_whitespace().filter(|word| *word != "is").collect();
    let named = |pair: &[&str]| {
        let element = pair[0].trim_start_matches(|c: char| !c.is_alphanumeric());
        let name = match pair[1].strip_prefix('"') {
            Some(name) => !name.is_empty() && !name.starts_with('"'),
            None => pair[1].starts_with(|c: char| c.is_ascii_digit()),
        };
        ELEMENTS.contains(&element) && name
    };
    words.windows(2).any(named)
        || words.iter().any(|word| {
            word.split_once('%').is_some_and(|(before, name)| !before.ends_with(is_name) && name.starts_with(is_name))
        })
}

#[test]
fn a_place_is_a_file_or_something_in_it_with_its_name_or_number() {
    let case = Case::of("", "m.onnx", Vec::new(), &["compile", "m.onnx", "-o", "out.nyx", "--target", "lavapipe"], &[]);
    for err in [
        "nyxc: m.onnx: truncated",
        "nyxc: node \"a b\" (Relu): no",
        "nyxc: bad\n  at line 3",
        "nyxc: the value (%x) is unknown",
    ] {
        assert!(names_a_place(err, &case), "{err}");
    }
    for err in [
        "m.onnx",
        "nyxc: cannot compile",
        "nyxc: no target",
        "nyxc: over budget",
        "nyxc: 3% more",
        "nyxc: the node failed",
        "nyxc: node \"\"",
    ] {
        assert!(!names_a_place(err, &case), "{err}");
    }
}
