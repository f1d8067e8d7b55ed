//! What a header says of a request's time.
//!
//! Owns the reading of `grpc-timeout` and of a header in milliseconds. Promises: any bytes are a time or nothing; nothing leaves the limit
//! as it is. Cannot fail.

use std::time::Duration;

use http::{HeaderName, Request};

use super::{BudgetLayer, ReadBudget};

/// Reads `grpc-timeout`: up to eight digits and a unit.
///
/// ```
/// use redis_holdfast::layer::{GrpcTimeout, ReadBudget};
/// use std::time::Duration;
///
/// # fn main() -> Result<(), http::Error> {
/// let request = http::Request::builder().header("grpc-timeout", "250m").body(())?;
/// assert_eq!(GrpcTimeout::default().read(&request), Some(Duration::from_millis(250)));
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct GrpcTimeout;

/// Reads a header that holds milliseconds. Made by [`BudgetLayer::header`].
///
/// ```
/// use redis_holdfast::layer::{BudgetLayer, Header};
/// use http::HeaderName;
/// use std::time::Duration;
///
/// let name = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
/// let of_envoy: BudgetLayer<Header> = BudgetLayer::new(Duration::from_millis(800)).header(name);
/// # let _ = of_envoy;
/// ```
#[derive(Clone, Debug)]
pub struct Header(HeaderName);

impl BudgetLayer {
    /// Gives a request the time in its header `grpc-timeout` (`250m`, `2S`), where that is less than the limit. For tonic.
    ///
    /// ```
    /// use redis_holdfast::layer::BudgetLayer;
    /// use std::time::Duration;
    ///
    /// let of_grpc = BudgetLayer::new(Duration::from_millis(800)).grpc_timeout();
    /// # let _ = of_grpc;
    /// ```
    #[must_use]
    pub fn grpc_timeout(self) -> BudgetLayer<GrpcTimeout> {
        self.with(GrpcTimeout)
    }

    /// Gives a request the whole milliseconds in its header `name`, where that is less than the limit: for example
    /// `x-envoy-expected-rq-timeout-ms`, or a name of your own.
    ///
    /// ```
    /// # use redis_holdfast::{deadline, layer::BudgetLayer};
    /// # use http::{HeaderName, Request};
    /// # use std::{convert::Infallible, time::Duration};
    /// # use tokio::time::Instant;
    /// # use tower::{Layer, Service, service_fn};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let api = service_fn(|_: Request<()>| async { Ok::<_, Infallible>(deadline::current()) });
    /// let of_envoy = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
    /// let mut api = BudgetLayer::new(Duration::from_secs(60)).header(of_envoy).layer(api);
    /// let request = Request::builder().header("x-envoy-expected-rq-timeout-ms", "800").body(())?;
    /// // What the API is told of its time: the header's 800 ms, less than its own minute.
    /// let ends = api.call(request).await?.expect("a deadline");
    /// assert!(ends < Instant::now() + Duration::from_secs(1));
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn header(self, name: HeaderName) -> BudgetLayer<Header> {
        self.with(Header(name))
    }
}

impl<B> ReadBudget<Request<B>> for GrpcTimeout {
    fn read(&self, request: &Request<B>) -> Option<Duration> {
        let text = request.headers().get("grpc-timeout")?.to_str().ok()?;
        let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let number = number(digits, 8)?;
        match unit {
            "H" => Some(Duration::from_secs(number * 3600)),
            "M" => Some(Duration::from_secs(number * 60)),
            "S" => Some(Duration::from_secs(number)),
            "m" => Some(Duration::from_millis(number)),
            "u" => Some(Duration::from_micros(number)),
            "n" => Some(Duration::from_nanos(number)),
            _ => None,
        }
    }
}

impl<B> ReadBudget<Request<B>> for Header {
    fn read(&self, request: &Request<B>) -> Option<Duration> {
        let text = request.headers().get(&self.0)?.to_str().ok()?;
        number(text.trim(), 18).map(Duration::from_millis)
    }
}

/// Digits and nothing else, at most so many.
fn number(text: &str, most: usize) -> Option<u64> {
    let is_number = text.len() <= most && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(name: &str, value: &[u8]) -> Request<()> {
        let request = Request::builder().header(name, value);
        request.body(()).expect("a header")
    }

    #[test]
    fn grpc_timeout_in_every_unit_and_nothing_from_anything_else() {
        for (text, millis) in [
            (&b"1H"[..], Some(3_600_000.0)),
            (b"2M", Some(120_000.0)),
            (b"3S", Some(3_000.0)),
            (b"250m", Some(250.0)),
            (b"1500u", Some(1.5)),
            (b"00000001n", Some(0.000_001)),
            (b"99999999H", Some(99_999_999.0 * 3_600_000.0)),
            (b"0S", Some(0.0)),
            (b"999999999S", None),
            (b"S", None),
            (b"", None),
            (b"+1S", None),
            (b"-1S", None),
            (b"1.5S", None),
            (b"1 S", None),
            (b"1s", None),
            (b"12", None),
            (b"1\xff", None),
            ("1µ".as_bytes(), None),
        ] {
            let found = GrpcTimeout.read(&request("grpc-timeout", text));
            let millis = millis.map(|millis| Duration::from_secs_f64(millis / 1000.0));
            assert_eq!(found, millis, "{text:?}");
        }
        assert_eq!(GrpcTimeout.read(&request("other", b"1S")), None);
    }

    #[test]
    fn a_header_of_milliseconds() {
        let header = Header(HeaderName::from_static("x-budget-ms"));
        for (text, millis) in [
            (&b"250"[..], Some(250)),
            (b" 7 ", Some(7)),
            (b"0", Some(0)),
            (b"-1", None),
            (b"1e3", None),
            (b"", None),
            (b"99999999999999999999", None),
        ] {
            let found = header.read(&request("x-budget-ms", text));
            assert_eq!(found, millis.map(Duration::from_millis), "{text:?}");
        }
    }
}
