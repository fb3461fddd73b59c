//! `/v1/chat/completions` and `/v1/completions`: several answers are sampled, and the critic
//! chooses one.

mod answer;
mod choose;
mod generate;
mod options;
mod turns;

use std::convert::Infallible;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use self::answer::Answer;
use self::generate::Plan;
use crate::app::App;
use crate::body::Fields;
use crate::refusal::Refusal;

/// Maximum number of events queued for a slow client.
const MAX_WAITING_EVENTS: usize = 16;

/// The format of a request and its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Chat,
    Text,
}

impl Shape {
    /// The path after `/v1/`.
    fn endpoint(self) -> &'static str {
        match self {
            Self::Chat => "chat/completions",
            Self::Text => "completions",
        }
    }
}

/// `POST /v1/chat/completions`.
pub(crate) async fn chat(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, Refusal> {
    complete(app, request, Shape::Chat).await
}

/// `POST /v1/completions`.
pub(crate) async fn text(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, Refusal> {
    complete(app, request, Shape::Text).await
}

async fn complete(app: Arc<App>, request: Request, shape: Shape) -> Result<Response, Refusal> {
    let fields = Fields::read(request, &app.limits).await?;
    let plan = Plan::new(&app, fields, shape).await?;
    match plan.options.stream {
        true => Ok(streamed(app, plan)),
        false => Ok(Json(answer(&app, plan).await?.whole()).into_response()),
    }
}

/// Samples and scores answers, and chooses one.
async fn answer(app: &Arc<App>, plan: Plan) -> Result<Answer, Refusal> {
    let samples = generate::samples(app, &plan).await?;
    let chosen = choose::choose(app, &plan, samples).await?;
    Ok(Answer::new(app, &plan, chosen))
}

/// The chosen answer as events. An invalid request has already failed with a status; a later
/// failure is an event of the stream.
fn streamed(app: Arc<App>, plan: Plan) -> Response {
    let (sender, receiver) = mpsc::channel::<Result<Event, Infallible>>(MAX_WAITING_EVENTS);
    let work = async move {
        let answered = tokio::select! {
            () = sender.closed() => return,
            answered = answer(&app, plan) => answered,
        };
        let events: Vec<Result<Event, axum::Error>> = match answered {
            Ok(answer) => {
                let chunks = answer.chunks();
                chunks
                    .map(|chunk| Event::default().json_data(chunk))
                    .collect()
            }
            Err(refusal) => vec![Event::default().json_data(refusal.body())],
        };
        let end = Event::default().data("[DONE]");
        for event in events.into_iter().flatten().chain([end]) {
            if sender.send(Ok(event)).await.is_err() {
                return;
            }
        }
    };
    tokio::spawn(work);
    Sse::new(ReceiverStream::new(receiver))
        .keep_alive(KeepAlive::default())
        .into_response()
}
