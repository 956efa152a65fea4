//! The access log: entries go through a bounded queue to a thread that formats and writes them.
//!
//! A request never waits for it: with the queue full, the entry is dropped and counted. Nor does it
//! wake the writer, which would cost more than all else here: while there is traffic, the writer
//! looks by itself.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, SyncSender, TryRecvError, TrySendError};
use std::thread;
use std::time::{Duration, Instant};

use prometheus::IntCounter;

use super::log::RateLimited;

pub use super::access_format::{Entry, Format};

/// Entries waiting: about 4 MB at half a kilobyte each.
const QUEUE: usize = 8192;
/// How long a flush may take, since a pipe that nobody reads must not hold up the exit.
const FLUSH_DEADLINE: Duration = Duration::from_secs(2);
/// Bytes gathered for one write.
const BUFFER: usize = 64 << 10;
/// How often the writer looks while there is traffic.
const LOOK: Duration = Duration::from_millis(10);
/// Looks in vain before the writer sleeps until the next entry wakes it.
const IDLE: u32 = 100;
/// Pause between tries to queue a command while the queue is full.
const FULL_PAUSE: Duration = Duration::from_millis(5);

/// Where lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Stdout,
    Stderr,
    /// Appended to; made with mode 0640 if absent.
    File(PathBuf),
}

/// Why the access log could not be started.
#[derive(Debug, thiserror::Error)]
pub enum AccessLogError {
    #[error("access log {}: {source}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("access log: no thread: {0}")]
    Thread(io::Error),
}

/// What the writer is told.
enum Message {
    // Boxed, so that the queue's memory is only taken when it fills.
    Entry(Box<Entry>),
    Reopen,
    /// Answered once all before it is written.
    Flush(SyncSender<()>),
}

/// The log's handle. Dropping it writes what is queued, within the deadline of a flush.
#[derive(Debug)]
pub struct AccessLog {
    queue: SyncSender<Message>,
    dropped: IntCounter,
}

impl AccessLog {
    /// Opens the target and starts the writer. `dropped` counts the lines that are lost.
    pub fn start(
        target: Target,
        format: Format,
        dropped: IntCounter,
    ) -> Result<Self, AccessLogError> {
        let out = open(&target)?;
        let (queue, messages) = mpsc::sync_channel(QUEUE);
        let trouble = RateLimited::new(1);
        let mut writer = Writer { target, format, out, dropped: dropped.clone(), trouble };
        thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || writer.run(&messages))
            .map_err(AccessLogError::Thread)?;
        Ok(Self { queue, dropped })
    }

    /// Queues an entry, or drops and counts it. Never waits.
    pub fn write(&self, entry: Entry) {
        if self.queue.try_send(Message::Entry(Box::new(entry))).is_err() {
            self.dropped.inc();
        }
    }

    /// Has the writer open its file anew, after the old one was moved away. Waits for the queue to
    /// have room, so not for the data path. False if the writer did not take it in time.
    pub fn reopen(&self) -> bool {
        self.command(Message::Reopen, Instant::now() + FLUSH_DEADLINE)
    }

    /// Waits until all that was queued before is written; false if that took too long.
    pub fn flush(&self) -> bool {
        let deadline = Instant::now() + FLUSH_DEADLINE;
        let (done, is_done) = mpsc::sync_channel(1);
        self.command(Message::Flush(done), deadline)
            && is_done.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_ok()
    }

    fn command(&self, mut message: Message, deadline: Instant) -> bool {
        loop {
            match self.queue.try_send(message) {
                Ok(()) => return true,
                Err(TrySendError::Disconnected(_)) => return false,
                Err(TrySendError::Full(_)) if Instant::now() >= deadline => return false,
                Err(TrySendError::Full(back)) => message = back,
            }
            #[expect(clippy::disallowed_methods)] // for commands of the main thread only
            thread::sleep(FULL_PAUSE);
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.flush();
    }
}

type Out = BufWriter<Box<dyn Write + Send>>;

fn open(target: &Target) -> Result<Out, AccessLogError> {
    Ok(BufWriter::with_capacity(
        BUFFER,
        match target {
            Target::Stdout => Box::new(io::stdout()),
            Target::Stderr => Box::new(io::stderr()),
            Target::File(path) => Box::new(
                append(path)
                    .map_err(|source| AccessLogError::Open { path: path.clone(), source })?,
            ),
        },
    ))
}

fn append(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o640);
    options.open(path)
}

/// The writer's side.
struct Writer {
    target: Target,
    format: Format,
    out: Out,
    dropped: IntCounter,
    trouble: RateLimited,
}

impl Writer {
    /// Until the last handle is gone. Flushes whenever there is nothing to do.
    fn run(&mut self, messages: &Receiver<Message>) {
        let mut in_vain = 0;
        loop {
            match messages.try_recv() {
                Ok(message) => {
                    in_vain = 0;
                    self.take(message);
                }
                Err(TryRecvError::Disconnected) => break,
                Err(TryRecvError::Empty) if in_vain < IDLE => {
                    self.flush();
                    in_vain += 1;
                    #[expect(clippy::disallowed_methods)] // a thread of its own
                    thread::sleep(LOOK);
                }
                Err(TryRecvError::Empty) => {
                    let Ok(message) = messages.recv() else { break };
                    in_vain = 0;
                    self.take(message);
                }
            }
        }
        self.flush();
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Entry(entry) => self.write(&entry),
            Message::Reopen => self.reopen(),
            Message::Flush(done) => {
                self.flush();
                // An error means that nobody waits any more.
                let _ = done.try_send(());
            }
        }
    }

    fn write(&mut self, entry: &Entry) {
        if let Err(error) = super::access_format::write(&mut self.out, self.format, entry) {
            self.dropped.inc();
            self.complain(&error);
        }
    }

    fn flush(&mut self) {
        // What stays in the buffer is tried again at the next flush.
        if let Err(error) = self.out.flush() {
            self.complain(&error);
        }
    }

    fn reopen(&mut self) {
        self.flush();
        match open(&self.target) {
            Ok(out) => self.out = out,
            // The old file is better than none.
            Err(error) => ::log::error!("{error}; going on with the file that was open"),
        }
    }

    fn complain(&self, error: &io::Error) {
        if let Some(more) = self.trouble.admit() {
            ::log::error!("access log: cannot write: {error} ({more} such lines suppressed)");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counter() -> IntCounter {
        IntCounter::new("dropped_total", "for the test").expect("a valid name")
    }

    fn entry(path: &str) -> Entry {
        Entry { path: path.to_owned(), ..Entry::default() }
    }

    fn start(path: &Path) -> AccessLog {
        AccessLog::start(Target::File(path.to_owned()), Format::Json, counter()).expect("starts")
    }

    #[test]
    fn appends_and_reopens() {
        let dir = tempfile::tempdir().expect("a directory");
        let (path, moved) = (dir.path().join("log"), dir.path().join("log.1"));
        let read = |path: &Path| std::fs::read_to_string(path).expect("a file");
        std::fs::write(&path, "before\n").expect("written");

        let log = start(&path);
        log.write(entry("/one"));
        assert!(log.flush());
        assert!(read(&path).starts_with("before\n{") && read(&path).contains("/one"));

        std::fs::rename(&path, &moved).expect("moved");
        log.write(entry("/two"));
        assert!(log.reopen());
        log.write(entry("/three"));
        drop(log);
        assert!(read(&moved).contains("/two"));
        assert!(!read(&path).contains("/two") && read(&path).contains("/three"));
    }

    #[test]
    fn a_full_queue_drops_and_counts() {
        let (queue, _messages) = mpsc::sync_channel(1);
        let log = std::mem::ManuallyDrop::new(AccessLog { queue, dropped: counter() });
        log.write(entry("/one"));
        log.write(entry("/two"));
        assert_eq!(log.dropped.get(), 1);
    }

    #[test]
    fn a_file_that_cannot_be_opened_stops_the_start() {
        let target = Target::File(PathBuf::from("/nonexistent/log"));
        let error = AccessLog::start(target, Format::Json, counter()).expect_err("no directory");
        assert!(error.to_string().starts_with("access log /nonexistent/log: "), "{error}");
    }

    #[test]
    fn nothing_is_lost_with_many_writers() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("log");
        let log = start(&path);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..100).for_each(|_| log.write(entry("/x"))));
            }
        });
        assert!(log.flush());
        let lines = std::fs::read_to_string(&path).expect("a file").lines().count() as u64;
        assert_eq!(lines + log.dropped.get(), 400);
    }
}
