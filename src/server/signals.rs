//! Signals: TERM and INT drain, HUP reloads, USR1 reopens the access log.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use async_trait::async_trait;
use pingora::server::{ShutdownSignal, ShutdownSignalWatch};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use super::service::Listeners;
use crate::admin::Reload;

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
        self.drain(&mut int).await;
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

    /// Readiness flips, nothing new is accepted, what is in flight ends; a second INT cuts short.
    async fn drain(&self, int: &mut Signal) {
        let listeners = &self.listeners;
        listeners.shared.ready.store(false, Relaxed);
        let timeout = listeners.shared.snapshot.load().limits.drain_timeout;
        log::info!("draining: {} requests in flight", listeners.proxy.in_flight());
        listeners.proxy.stop_accepting();
        listeners.proxy.drain();
        tokio::select! {
            cut = listeners.proxy.drained(Instant::now() + timeout) => match cut {
                0 => log::info!("drained"),
                cut => log::warn!("drain timeout: {cut} connections cut"),
            },
            _ = int.recv() => log::warn!("drain cut short"),
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
