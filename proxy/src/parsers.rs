//! Parsers of peers' bytes that the data plane keeps to itself otherwise, for who feeds them bytes of his own: the fuzz targets.

pub use crate::{
    http::{
        frames::{Ended, Flood, Inbound, Outbound},
        timed::{names_fragment, names_length},
    },
    net::proxy_protocol::{Header, MAX_BYTES, parse as proxy_header},
};
