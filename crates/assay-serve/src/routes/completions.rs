//! `/v1/chat/completions` and `/v1/completions`: sample several answers, let the critic choose one.

mod answer;
mod choose;
mod generate;
mod options;

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
use self::options::Options;
use crate::app::App;
use crate::fields::Fields;
use crate::refusal::Refusal;

/// Events that wait for a slow client.
const WAITING: usize = 16;

/// Which of the two shapes a request and its answer have.
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
    let mut fields = Fields::read(request, &app.limits).await?;
    let options = Options::take(&app, &mut fields, shape)?;
    let streams = options.stream;
    let plan = Plan::new(&app, options, fields, shape).await?;
    if streams {
        return Ok(streamed(app, plan));
    }
    Ok(Json(answer(&app, plan).await?.whole()).into_response())
}

/// Samples, scores, chooses.
async fn answer(app: &Arc<App>, plan: Plan) -> Result<Answer, Refusal> {
    let samples = generate::samples(app, &plan).await?;
    let chosen = choose::choose(app, &plan, samples).await?;
    Ok(Answer::new(app, &plan, chosen))
}

/// The chosen answer as events. What is known to be wrong before sampling has been refused with a status; what fails
/// later stands in the stream.
fn streamed(app: Arc<App>, plan: Plan) -> Response {
    let (sender, receiver) = mpsc::channel::<Result<Event, Infallible>>(WAITING);
    let work = async move {
        let send = |text: String| sender.send(Ok(Event::default().data(text)));
        let answered = tokio::select! {
            () = sender.closed() => return,
            answered = answer(&app, plan) => answered,
        };
        match answered {
            Ok(answer) => {
                for chunk in answer.chunks() {
                    if send(chunk.to_string()).await.is_err() {
                        return;
                    }
                }
            }
            Err(refusal) => drop(send(refusal.body().to_string()).await),
        }
        drop(send("[DONE]".to_owned()).await);
    };
    tokio::spawn(work);
    Sse::new(ReceiverStream::new(receiver))
        .keep_alive(KeepAlive::default())
        .into_response()
}
