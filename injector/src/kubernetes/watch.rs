//! Lists in pages and watches, of objects that are read as far as somebody needs them.

use http::{Method, Request};
use kube::core::WatchEvent;
use serde::{Deserialize, de::DeserializeOwned};
use tokio::time;
use tokio_stream::{Stream, StreamExt as _};

use super::{Cluster, Error, JSON, PATIENCE};

/// Objects in a page: what is read at once stays small.
const PAGE: u32 = 250;
/// How long the API server keeps a watch open, in seconds.
const LIFE: u32 = 300;

/// One page of a list.
#[derive(Debug, Deserialize)]
pub(crate) struct Page<T> {
    metadata: PageMetadata,
    items: Option<Vec<T>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct PageMetadata {
    resource_version: String,
    #[serde(rename = "continue")]
    more: Option<String>,
}

// === impl Cluster ===

impl Cluster {
    /// The objects at `path`, one page after the other: each is handed to `take`. Gives the version to watch from.
    ///
    /// # Errors
    /// Also in the middle, after some pages: then `take` has not seen all of them.
    pub(crate) async fn list<T: DeserializeOwned>(
        &self,
        path: &str,
        mut take: impl FnMut(T),
    ) -> Result<String, Error> {
        let mut more = String::new();
        loop {
            let page = format!("{path}?limit={PAGE}{more}");
            let page: Page<T> = self.call(Method::GET, &page, JSON, None).await?;
            page.items.into_iter().flatten().for_each(&mut take);
            match page.metadata.more.filter(|more| !more.is_empty()) {
                Some(token) => more = format!("&continue={}", escaped(&token)),
                None => return Ok(page.metadata.resource_version),
            }
        }
    }

    /// What happens to the objects at `path` after `version`.
    ///
    /// # Errors
    /// The watch does not begin; [`Error::Gone`], if `version` is too long ago.
    pub(crate) async fn watch<T: DeserializeOwned + Clone>(
        &self,
        path: &str,
        version: &str,
    ) -> Result<impl Stream<Item = Result<WatchEvent<T>, Error>> + use<T>, Error> {
        let query = format!(
            "watch=true&allowWatchBookmarks=true&timeoutSeconds={LIFE}&resourceVersion={}",
            escaped(version)
        );
        let request = Request::builder().method(Method::GET).uri(format!("{path}?{query}")).body(Vec::new());
        let request = request.map_err(|error| Error::Shape(format!("{path}: {error}")))?;
        let events = time::timeout(PATIENCE, self.client.request_events(request)).await;
        let events = events.map_err(|_| Error::Timeout)??;
        Ok(events.map(|event| match event {
            // In the middle of a stream the code comes as an event.
            Ok(WatchEvent::Error(status)) => Err(Error::from(kube::Error::Api(status))),
            event => event.map_err(Error::from),
        }))
    }
}

/// For a query: everything but letters and digits in percent-escapes.
fn escaped(text: &str) -> String {
    let mut all = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => all.push(char::from(byte)),
            other => all.push_str(&format!("%{other:02X}")),
        }
    }
    all
}
