//! What only shows at an exact moment, or in the words of webpki and rustls.

mod failures;
mod moments;
