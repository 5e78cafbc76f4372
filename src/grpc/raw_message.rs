//! Messages that are passed on as the bytes that they came as, so that nothing of them is lost or changed.

use bytes::{Buf as _, BufMut as _, Bytes};
use tonic::{
    Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};
use tonic_prost::{ProstDecoder, ProstEncoder};

use crate::proto::istio::v1::auth::IstioCertificateResponse;

/// The method whose messages are passed on.
pub(super) const CREATE_CERTIFICATE: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";

/// Takes requests as bytes and gives responses: the server's side.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TakesRaw;

/// Gives requests as bytes and takes responses: the client's side.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct GivesRaw;

/// Bytes as they are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Raw;

impl Codec for TakesRaw {
    type Encode = IstioCertificateResponse;
    type Decode = Bytes;
    type Encoder = ProstEncoder<IstioCertificateResponse>;
    type Decoder = Raw;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(BufferSettings::default())
    }

    fn decoder(&mut self) -> Self::Decoder {
        Raw
    }
}

impl Codec for GivesRaw {
    type Encode = Bytes;
    type Decode = IstioCertificateResponse;
    type Encoder = Raw;
    type Decoder = ProstDecoder<IstioCertificateResponse>;

    fn encoder(&mut self) -> Self::Encoder {
        Raw
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::new(BufferSettings::default())
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
