//! Signals: TERM and INT drain, HUP reloads, USR1 reopens the access log.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use async_trait::async_trait;
use pingora::server::{ShutdownSignal, ShutdownSignalWatch};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use super::service::Listeners;
use crate::admin::Reload;

/// What filters do after responses has so long to end, once there are no more requests.
const AFTER_RESPONSES: Duration = Duration::from_secs(2);

/// Waits for the signal that ends the program; the whole drain happens before it is passed on.
pub struct Signals {
    listeners: Arc<Listeners>,
}

impl Signals {
    pub fn new(listeners: Arc<Listeners>) -> Self {
        Self { listeners }
    }

    async fn wait(&self) -> std::io::Result<()> {
        let mut term = signal(SignalKind::terminate())?;
        let mut int = signal(SignalKind::interrupt())?;
        let mut hup = signal(SignalKind::hangup())?;
        let mut usr1 = signal(SignalKind::user_defined1())?;
        loop {
            tokio::select! {
                _ = term.recv() => break,
                _ = int.recv() => break,
                _ = hup.recv() => self.reload().await,
                _ = usr1.recv() => self.reopen().await,
            }
        }
        tokio::select! {
            () = self.drain() => {}
            _ = term.recv() => log::warn!("drain cut short"),
            _ = int.recv() => log::warn!("drain cut short"),
        }
        Ok(())
    }

    /// The outcome is in the log.
    async fn reload(&self) {
        let listeners = Arc::clone(&self.listeners);
        let _ = tokio::task::spawn_blocking(move || listeners.reload()).await;
    }

    async fn reopen(&self) {
        let shared = Arc::clone(&self.listeners.shared);
        let reopened = tokio::task::spawn_blocking(move || {
            shared.access_log.load().as_ref().is_none_or(|log| log.reopen())
        });
        if !reopened.await.unwrap_or(false) {
            log::error!("the access log was not reopened in time");
        }
    }

    /// Readiness flips, and may be seen for a while; then nothing new is accepted, and what is in
    /// flight ends.
    async fn drain(&self) {
        let listeners = &self.listeners;
        listeners.shared.ready.store(false, Relaxed);
        listeners.schedules.lock().abort_all();
        let snapshot = listeners.shared.snapshot.load_full();
        if let Some(delay) = snapshot.limits.drain_delay {
            log::info!("not ready; the listeners close in {delay:?}");
            tokio::time::sleep(delay).await;
        }
        log::info!("draining: {} requests in flight", listeners.proxy.in_flight());
        listeners.proxy.stop_accepting();
        listeners.proxy.drain();
        match listeners.proxy.drained(Instant::now() + snapshot.limits.drain_timeout).await {
            0 => log::info!("drained"),
            cut => log::warn!("drain timeout: {cut} connections cut"),
        }
        match listeners.shared.after.close(AFTER_RESPONSES).await {
            0 => {}
            cut => log::warn!("{cut} runs after responses were cut"),
        }
    }
}

#[async_trait]
impl ShutdownSignalWatch for Signals {
    async fn recv(&self) -> ShutdownSignal {
        if let Err(error) = self.wait().await {
            log::error!("signals cannot be received: {error}");
        }
        ShutdownSignal::GracefulTerminate
    }
}
