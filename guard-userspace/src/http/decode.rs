//! Bodies that were compressed (`Content-Encoding`).

use std::io::Read as _;

use super::MAX_BODY;

/// Encodings that one body may have been put through; real ones have one.
const MAX_ENCODINGS: usize = 4;

/// The body as it was before it was encoded, the last encoding first.
///
/// # Errors
/// Why it cannot be had.
pub(super) fn decode(body: Vec<u8>, encodings: &[String]) -> Result<Vec<u8>, &'static str> {
    if encodings.len() > MAX_ENCODINGS {
        return Err("it is encoded too many times");
    }
    let mut body = body;
    for encoding in encodings.iter().rev() {
        let mut decoded = Vec::new();
        let most = MAX_BODY as u64 + 1;
        let bytes = &body[..];
        let read = match &**encoding {
            "" | "identity" => continue,
            "gzip" | "x-gzip" => flate2::read::MultiGzDecoder::new(bytes)
                .take(most)
                .read_to_end(&mut decoded),
            // RFC 9110, 8.4.1.2: zlib's form; some send it without zlib's head.
            "deflate" => {
                let with_head = flate2::read::ZlibDecoder::new(bytes)
                    .take(most)
                    .read_to_end(&mut decoded);
                with_head.or_else(|_| {
                    decoded.clear();
                    flate2::read::DeflateDecoder::new(bytes)
                        .take(most)
                        .read_to_end(&mut decoded)
                })
            }
            "br" => brotli_decompressor::Decompressor::new(bytes, 4096)
                .take(most)
                .read_to_end(&mut decoded),
            "zstd" => ruzstd::decoding::StreamingDecoder::new(bytes)
                .map_err(|_| "it is no zstd")?
                .take(most)
                .read_to_end(&mut decoded),
            _ => return Err("its encoding is not known"),
        };
        read.map_err(|_| "it is not of the encoding that it says")?;
        if decoded.len() > MAX_BODY {
            return Err("it is too long");
        }
        body = decoded;
    }
    Ok(body)
}
