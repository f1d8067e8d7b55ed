//! An API that keeps serving while its Redis is away: a budget per request, a cache with a source behind it, honest probes, a quiet end.
//!
//! ```sh
//! cargo run --features http --example axum_api -- redis://127.0.0.1:6379/ 127.0.0.1:8080
//! curl -i -H 'x-budget-ms: 80' http://127.0.0.1:8080/pages/7
//! ```
//!
//! Try it without a Redis too: it starts, pages are served from their source, `/readyz` says what is wrong.

use std::time::Duration;

use axum::{
    Router,
    extract::{Path, State},
    http::{HeaderName, StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
    routing::{get, post},
    serve::Listener,
};
use redis_holdfast::layer::{BudgetLayer, Fallback, FallbackLayer, Foreign, cache_miss};
use redis_holdfast::redis::{AsyncCommands, RedisError};
use redis_holdfast::{Client, ClientService, Error, ServiceConnection};
use tokio::signal::unix::{SignalKind, signal};
use tower::ServiceBuilder;

/// What a request has for all its Redis calls together; its caller may give it less, by this header, and never more.
const REQUEST_BUDGET: Duration = Duration::from_millis(400);
const BUDGET_HEADER: HeaderName = HeaderName::from_static("x-budget-ms");
/// What the cache may take of it: a read that is lost must leave time for the source.
const CACHE_TIMEOUT: Duration = Duration::from_millis(100);
/// What open requests have to end when the process is told to.
const DRAIN: Duration = Duration::from_secs(5);
/// A client heals within half a second of its Redis; the header knows whole seconds only.
const COME_BACK: [(HeaderName, &str); 1] = [(RETRY_AFTER, "1")];

/// Reads that find nothing while Redis is away.
type Cache = ServiceConnection<Fallback<Foreign<ClientService>>>;

#[derive(Clone)]
struct Api {
    redis: Client,
    cache: Cache,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let url = args.next();
    let url = url.unwrap_or_else(|| "redis://127.0.0.1:6379/".to_owned());
    let listen = args.next().unwrap_or_else(|| "127.0.0.1:8080".to_owned());

    // No I/O: the process starts, and is alive, whether or not there is a Redis.
    let redis = Client::builder(&url)?.name("api").build()?;
    let cache = ServiceBuilder::new()
        .layer(FallbackLayer::new(cache_miss).name("api"))
        .service(redis.with_call_timeout(CACHE_TIMEOUT).service());
    let api = Api {
        redis: redis.clone(),
        cache: ServiceConnection::new(cache),
    };

    let app = Router::new()
        .route("/pages/{id}", get(page))
        .route("/visits", post(visit))
        .route("/readyz", get(readyz))
        // Every Redis call of a request ends within the request's time, whichever handler makes it.
        .layer(BudgetLayer::new(REQUEST_BUDGET).header(BUDGET_HEADER))
        .with_state(api)
        .route("/livez", get(livez));

    let listener = tokio::net::TcpListener::bind(listen).await?;
    println!("listening on {}", Listener::local_addr(&listener)?);
    serve(listener, app).await?;

    // After the last request, for it may still have been calling.
    let drained = redis.shutdown(Duration::from_secs(1)).await;
    println!("redis: {}", if drained { "drained" } else { "cut off" });
    Ok(())
}

/// Until the process is told to end, then as long as open requests need, but not for ever.
async fn serve(listener: tokio::net::TcpListener, app: Router) -> std::io::Result<()> {
    let mut terminated = signal(SignalKind::terminate())?;
    let (tell, told) = tokio::sync::oneshot::channel::<()>();
    let server = axum::serve(listener, app).with_graceful_shutdown(async {
        let _ = told.await;
    });
    let end = async {
        tokio::select! {
            _ = terminated.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        drop(tell);
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        served = server.into_future() => served,
        () = end => {
            println!("requests were cut off");
            Ok(())
        }
    }
}

/// Alive is whoever can say so. Never ask Redis here: a restart has never brought one back, and takes the cache of the process with it.
async fn livez() -> &'static str {
    "alive\n"
}

/// Whether this process is of use *with* its Redis; reads no socket. Pages do not need it: a service of pages alone would leave it out.
async fn readyz(State(api): State<Api>) -> Response {
    let health = api.redis.health();
    if health.is_ready() {
        format!("{health}\n").into_response()
    } else {
        let unavailable = StatusCode::SERVICE_UNAVAILABLE;
        (unavailable, COME_BACK, format!("{health}\n")).into_response()
    }
}

/// Cache-aside: what the cache does not have, or cannot say, comes from the source.
async fn page(State(mut api): State<Api>, Path(id): Path<u32>) -> Result<String, Failure> {
    let key = format!("page:{id}");
    // A miss while Redis is away; an error only where waiting would not help, such as a wrong password.
    if let Some(page) = api.cache.get::<_, Option<String>>(&key).await? {
        return Ok(format!("{page} (cache)\n"));
    }
    let page = source(id).await;
    if let Err(error) = api.cache.set_ex::<_, _, ()>(&key, &page, 60).await {
        println!("page {id} is not remembered: {error}");
    }
    Ok(format!("{page} (source)\n"))
}

/// A database, say.
async fn source(id: u32) -> String {
    tokio::time::sleep(Duration::from_millis(5)).await;
    format!("page {id}")
}

/// A write, which nothing can stand in for: its caller is told, within its budget.
async fn visit(State(mut api): State<Api>) -> Result<String, Failure> {
    let visits: u64 = api.redis.incr("visits", 1).await?;
    Ok(format!("{visits}\n"))
}

/// A Redis error as an answer of the API.
struct Failure(RedisError);

impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let (status, text) = match Error::find_in(&self.0) {
            // It may have been counted all the same.
            Some(ours) if ours.may_have_executed() => {
                (StatusCode::GATEWAY_TIMEOUT, ours.to_string())
            }
            Some(ours) => (StatusCode::SERVICE_UNAVAILABLE, ours.to_string()),
            None => (StatusCode::INTERNAL_SERVER_ERROR, self.0.to_string()),
        };
        (status, COME_BACK, format!("{text}\n")).into_response()
    }
}
