//! Starts, runs and stops the service.

use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use assay_tasks::labels::LabelFile;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;

use crate::app::{App, ENCODERS, unix_seconds};
use crate::connection;
use crate::engine::{Batching, Engine};
use crate::error::ServeError;
use crate::events::Events;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::models::Models;
use crate::routes;
use crate::token::Token;

/// Threads of the event loop; the model has its own.
const EVENT_THREADS: usize = 2;

/// The settings of a server.
#[derive(Clone, Default)]
pub struct ServeSettings {
    /// Limits on requests.
    pub limits: Limits,
    /// Limits of one batch.
    pub batching: Batching,
    /// The secret that requests must carry, if any.
    pub token: Option<Token>,
    /// The file of labels that people make in the viewer; `None` for no labels.
    pub labels: Option<Arc<LabelFile>>,
    /// Seed of samples if the request names none.
    pub seed: u64,
    /// Receives messages for the operator.
    pub events: Events,
}

/// A server that is listening but not yet running.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    models: Models,
    settings: ServeSettings,
}

impl Server {
    /// Listens on `HOST:PORT`, a name or an address; port 0 takes a free one.
    ///
    /// # Errors
    /// [`ServeError::Bind`].
    pub fn bind(
        address: &str,
        models: Models,
        settings: ServeSettings,
    ) -> Result<Self, ServeError> {
        let failed = |source| ServeError::Bind {
            address: address.to_owned(),
            source,
        };
        let listener = TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self {
            listener,
            address,
            models,
            settings,
        })
    }

    /// The address on which the server listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether requests from other machines are answered without a token.
    pub fn is_exposed(&self) -> bool {
        !self.address.ip().is_loopback() && self.settings.token.is_none()
    }

    /// Runs until SIGINT or SIGTERM, then answers the accepted requests.
    ///
    /// # Errors
    /// As [`Server::run_until`].
    pub fn run(self) -> Result<(), ServeError> {
        let events = self.settings.events.clone();
        self.run_until(async move {
            match (
                signal(SignalKind::interrupt()),
                signal(SignalKind::terminate()),
            ) {
                (Ok(mut interrupt), Ok(mut terminate)) => tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                },
                _ => {
                    events.say("signal handlers could not be installed: the server ends only when it is killed");
                    std::future::pending::<()>().await;
                }
            }
        })
    }

    /// Runs until `stop` is ready, then accepts no more requests and answers the accepted ones
    /// within the grace period. Blocks.
    ///
    /// # Errors
    /// [`ServeError::System`] if threads or the listener cannot be set up.
    pub fn run_until(self, stop: impl Future<Output = ()>) -> Result<(), ServeError> {
        let system = |doing| move |source| ServeError::System { doing, source };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(EVENT_THREADS)
            .max_blocking_threads(self.settings.limits.requests.max(ENCODERS))
            .enable_all()
            .build()
            .map_err(system("starting the event loop"))?;
        let metrics = Arc::new(Metrics::new()?);
        let ServeSettings {
            limits,
            batching,
            token,
            labels,
            seed,
            events,
        } = self.settings;
        let models = Arc::new(self.models);
        let engine = Engine::start(
            Arc::clone(&models),
            batching,
            &limits,
            Arc::clone(&metrics),
            events.clone(),
        )?;
        let app = Arc::new(App {
            models,
            engine: engine.client(),
            metrics: Arc::clone(&metrics),
            token,
            labels,
            events: events.clone(),
            token_budget: batching.token_budget,
            seed,
            started: unix_seconds(),
            encoders: Arc::new(Semaphore::new(ENCODERS)),
            requests: Arc::new(Semaphore::new(limits.requests)),
            numbered: AtomicU64::new(0),
            limits: limits.clone(),
        });
        let listener = self.listener;
        let finished = runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener)
                .map_err(system("registering the listener"))?;
            let router = routes::router(app);
            Ok::<bool, ServeError>(
                connection::accept(listener, router, &limits, metrics, stop).await,
            )
        })?;
        if !finished {
            events.say("some requests did not finish in the grace period and were dropped");
            engine.abandon();
        }
        runtime.shutdown_background();
        engine.stop();
        Ok(())
    }
}
