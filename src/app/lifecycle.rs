//! When to stop, and when to read certificates anew.

use tokio::signal::unix::{SignalKind, signal};

/// Waits for SIGTERM or SIGINT. From the call on they don't end the process by themselves, whether or not it is waited.
pub fn asked_to_stop() -> std::io::Result<impl Future<Output = ()>> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    })
}

/// Does something at each SIGHUP, which without this would end the process.
pub fn on_hangup(act: impl Fn() + Send + 'static) -> std::io::Result<()> {
    let mut hangups = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangups.recv().await.is_some() {
            act();
        }
    });
    Ok(())
}
