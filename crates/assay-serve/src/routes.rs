//! The routes: a table from which the router and the description are made, access checks, and
//! headers of all responses.

pub(crate) mod completions;
pub(crate) mod labels;
pub(crate) mod pages;
pub(crate) mod rerank;
pub(crate) mod table;
pub(crate) mod texts;

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};

use crate::app::App;
use crate::refusal::Refusal;
use crate::token::names_an_address;

use self::table::{Access, TABLE};

/// The service's router.
pub(crate) fn router(app: Arc<App>) -> Router {
    let routes = |access: Access| {
        let routes = TABLE.iter().filter(|route| route.access == access);
        routes.fold(Router::new(), |router, route| {
            router.route(route.path, (route.handler)())
        })
    };
    routes(Access::Work)
        .route_layer(from_fn_with_state(Arc::clone(&app), admit))
        .merge(routes(Access::Token))
        .route_layer(from_fn_with_state(Arc::clone(&app), authorise))
        .merge(routes(Access::Open))
        .fallback(nothing_here)
        .method_not_allowed_fallback(other_method)
        .layer(from_fn_with_state(Arc::clone(&app), guard))
        .with_state(app)
}

/// Checks the bearer token, if the server has one.
async fn authorise(
    State(app): State<Arc<App>>,
    request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    match &app.token {
        Some(token) if !token.is_in(request.headers()) => Err(Refusal::unauthorised()),
        _ => Ok(next.run(request).await),
    }
}

/// Limits the number of requests in progress.
async fn admit(
    State(app): State<Arc<App>>,
    request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    if !app.engine.is_open() {
        return Err(Refusal::stopping());
    }
    let Ok(_permit) = app.requests.try_acquire() else {
        return Err(Refusal::overloaded(app.metrics.seconds_for(1)));
    };
    Ok(next.run(request).await)
}

/// Counts and times every request, refuses other hosts' names if there is no token, and sets
/// headers that forbid storing a response and guessing its type.
async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let route = request.extensions().get::<MatchedPath>();
    let route = route.map_or_else(|| "other".to_owned(), |path| path.as_str().to_owned());
    let gauge = InFlight::new(Arc::clone(&app));
    let mut response = if app.token.is_none() && !names_an_address(request.headers()) {
        let message =
            "ask for this server by its address or as localhost, or start it with --token-file";
        Refusal::status(StatusCode::FORBIDDEN, "foreign_host", message).into_response()
    } else {
        next.run(request).await
    };
    drop(gauge);
    let headers = response.headers_mut();
    let mut mark = |name: HeaderName, value| headers.insert(name, HeaderValue::from_static(value));
    mark(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    mark(header::REFERRER_POLICY, "no-referrer");
    mark(header::CACHE_CONTROL, "no-store");
    app.metrics
        .answered(&route, response.status().as_u16(), started.elapsed());
    response
}

/// Counts a request as in progress until it is dropped.
struct InFlight(Arc<App>);

impl InFlight {
    fn new(app: Arc<App>) -> Self {
        app.metrics.in_flight().inc();
        Self(app)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.metrics.in_flight().dec();
    }
}

async fn nothing_here() -> Refusal {
    let message = "there is nothing here; /openapi.json describes what there is";
    Refusal::status(StatusCode::NOT_FOUND, "unknown_route", message)
}

async fn other_method() -> Refusal {
    let message = "this route takes another method; /openapi.json says which";
    Refusal::status(StatusCode::METHOD_NOT_ALLOWED, "unknown_method", message)
}
