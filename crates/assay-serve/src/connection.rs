//! Accepts connections within the limits on their number, headers and times, and closes them.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutStream;

use crate::limits::Limits;
use crate::metrics::Metrics;

/// Smallest buffer that hyper accepts.
const MIN_BUFFER_BYTES: usize = 8192;

/// Accepts connections until `stop`, then lets requests in progress finish within the grace period.
///
/// Returns whether all of them finished.
pub(crate) async fn accept(
    listener: TcpListener,
    router: Router,
    limits: &Limits,
    metrics: Arc<Metrics>,
    stop: impl Future<Output = ()>,
) -> bool {
    let open = Arc::new(Semaphore::new(limits.connections));
    let ending = GracefulShutdown::new();
    let mut stop = pin!(stop);
    loop {
        let stream = tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(_) => {
                    // Out of descriptors, or the client left. Later connections may succeed.
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                    continue;
                }
            },
        };
        let Ok(permit) = Arc::clone(&open).try_acquire_owned() else {
            continue;
        };
        let connection = connect(stream, router.clone(), limits);
        let connection = ending.watch(connection);
        let metrics = Arc::clone(&metrics);
        tokio::spawn(async move {
            metrics.connections().inc();
            // A client that leaves or exceeds a limit ends its own connection only.
            drop(connection.await);
            metrics.connections().dec();
            drop(permit);
        });
    }
    drop(listener);
    tokio::time::timeout(limits.shutdown_grace, ending.shutdown())
        .await
        .is_ok()
}

type Service = TowerToHyperService<Router>;
type Io = TokioIo<std::pin::Pin<Box<TimeoutStream<TcpStream>>>>;

fn connect(stream: TcpStream, router: Router, limits: &Limits) -> http1::Connection<Io, Service> {
    // Responses are small, so waiting to fill a segment only delays them. An error here is
    // harmless.
    drop(stream.set_nodelay(true));
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(limits.write_timeout));
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_headers(limits.headers)
        .max_buf_size(limits.header_bytes.max(MIN_BUFFER_BYTES))
        .serve_connection(
            TokioIo::new(Box::pin(stream)),
            TowerToHyperService::new(router),
        )
}
