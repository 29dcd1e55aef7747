//! Which bucket at which server, and the keys to it.
//!
//! Decides how both are given: the address as one URL, the keys in the environment only, since arguments are public.

use std::str::FromStr;

use rusty_s3::Credentials;

use super::super::PeerError;

/// Longest address.
const ADDRESS_MAX_BYTES: usize = 2_048;
/// What S3 servers that know no regions answer to.
const REGION_DEFAULT: &str = "us-east-1";

/// A bucket at a server: `http[s]://HOST[:PORT]/BUCKET[/PREFIX][?region=REGION]`.
///
/// Without a region it is that of `AWS_REGION` or `AWS_DEFAULT_REGION`, or `us-east-1`. The bucket is always part of the
/// path, never of the host name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Address {
    endpoint: String,
    bucket: String,
    prefix: String,
    region: String,
}

impl S3Address {
    /// Scheme, host and port.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The bucket's name.
    #[must_use]
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// What all keys begin with: nothing, or something that ends with a slash.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The region that requests are signed for.
    #[must_use]
    pub fn region(&self) -> &str {
        &self.region
    }

    fn parse(text: &str, region: Option<String>) -> Result<Self, PeerError> {
        let (url, query) = text.split_once('?').map_or((text, None), |(url, query)| (url, Some(query)));
        let wrong = |why: &str| {
            let url = url.chars().take(ADDRESS_MAX_BYTES).collect();
            Err(PeerError::S3Address { url, why: why.to_owned() })
        };
        if text.len() > ADDRESS_MAX_BYTES {
            return wrong("it is too long");
        }
        let Some((scheme, rest)) = url.split_once("://").filter(|(scheme, _)| ["http", "https"].contains(scheme))
        else {
            return wrong("it does not begin with http:// or https://");
        };
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        if host.contains('@') {
            return wrong("keys belong into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, not into an address");
        }
        let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
        if host.is_empty() || bucket.is_empty() {
            return wrong("host or bucket is missing");
        }
        let region = match query.map(|query| query.strip_prefix("region=")) {
            None => region.unwrap_or_else(|| REGION_DEFAULT.to_owned()),
            Some(Some(region)) if !region.is_empty() && !region.contains('&') => region.to_owned(),
            Some(_) => return wrong("after `?` only region=REGION may stand"),
        };
        let prefix = prefix.trim_end_matches('/');
        Ok(Self {
            endpoint: format!("{scheme}://{host}"),
            bucket: bucket.to_owned(),
            prefix: if prefix.is_empty() { String::new() } else { format!("{prefix}/") },
            region,
        })
    }
}

impl FromStr for S3Address {
    type Err = PeerError;

    fn from_str(text: &str) -> Result<Self, PeerError> {
        let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self::parse(text, set("AWS_REGION").or_else(|| set("AWS_DEFAULT_REGION")))
    }
}

/// The keys to a bucket; the secret one is wiped on drop and in no debug output.
#[derive(Debug, Clone)]
pub struct S3Keys(pub(super) Credentials);

impl S3Keys {
    /// Those of `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and perhaps `AWS_SESSION_TOKEN`.
    ///
    /// # Errors
    /// [`PeerError::S3Keys`] where they are not set.
    pub fn from_environment() -> Result<Self, PeerError> {
        Credentials::from_env().map(Self).ok_or(PeerError::S3Keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_url_names_server_bucket_prefix_and_region() {
        let address = S3Address::parse("http://127.0.0.1:3900/bench?region=garage", None).expect("an address");
        assert_eq!(address.endpoint(), "http://127.0.0.1:3900");
        assert_eq!((address.bucket(), address.prefix(), address.region()), ("bench", "", "garage"));
        let address = S3Address::parse("https://s3.example.org/bench/a/b/", Some("eu".to_owned())).expect("an address");
        assert_eq!((address.bucket(), address.prefix(), address.region()), ("bench", "a/b/", "eu"));
        let address = S3Address::parse("https://s3.example.org/bench", None).expect("an address");
        assert_eq!(address.region(), REGION_DEFAULT);
    }

    #[test]
    fn what_is_no_address_says_why() {
        for (text, why) in [
            ("127.0.0.1:3900/bench", "http://"),
            ("ftp://127.0.0.1/bench", "http://"),
            ("http://127.0.0.1:3900", "bucket"),
            ("http:///bench", "host"),
            ("http://key:secret@127.0.0.1/bench", "AWS_ACCESS_KEY_ID"),
            ("http://127.0.0.1/bench?list", "region"),
            ("http://127.0.0.1/bench?region=a&b=c", "region"),
        ] {
            match S3Address::parse(text, None) {
                Err(PeerError::S3Address { why: told, .. }) => assert!(told.contains(why), "{text}: {told}"),
                other => panic!("{text}: {other:?}"),
            }
        }
    }
}
