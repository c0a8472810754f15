//! The HTTP library of the SDK without TLS and HTTP/2, which take half of the build and which no
//! request to a server on this machine uses. It is version 0.12, as published: 0.13 cannot stand in for itself.

pub use without_tls::*;
