//! Batches: what calibration and evaluation feed to a network.

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use trimtab_nn::{Ctx, Flow};

use crate::error::{Error, Result};

/// One batch for a network, with all that its forward pass needs beside the data.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Tokens or images.
    pub input: Flow,
    /// `[B, T]`, `true` keeps a token.
    pub mask: Option<Tensor<2, Bool>>,
    /// Weight of each row for the taps (tokens of a text, or one per image): `w >= 0`, multiplies the squared error.
    pub row_weights: Option<Vec<f64>>,
}

impl Batch {
    /// The context of a forward pass on this batch.
    pub fn ctx(&self) -> Ctx<'_> {
        Ctx { mask: self.mask.clone(), row_weights: self.row_weights.as_deref(), ..Ctx::default() }
    }

    /// Whole windows without padding: `[B, T]` from equally long rows.
    pub fn windows(rows: &[&[u32]], device: &Device) -> Self {
        Self { input: Flow::Tokens(token_tensor(rows, device)), mask: None, row_weights: None }
    }

    /// Texts of different length, padded with `pad`; padding is masked and has weight 0.
    pub fn padded(rows: &[&[u32]], pad: u32, device: &Device) -> Self {
        let longest = rows.iter().map(|row| row.len()).max().unwrap_or(0);
        if rows.iter().all(|row| row.len() == longest) {
            return Self::windows(rows, device);
        }
        let filled: Vec<Vec<u32>> = rows
            .iter()
            .map(|row| row.iter().copied().chain(std::iter::repeat(pad)).take(longest).collect())
            .collect();
        let keep: Vec<bool> = rows.iter().flat_map(|row| (0..longest).map(|i| i < row.len())).collect();
        let weights = keep.iter().map(|&keep| f64::from(u8::from(keep))).collect();
        let views: Vec<&[u32]> = filled.iter().map(Vec::as_slice).collect();
        let mask = Tensor::from_data(TensorData::new(keep, [rows.len(), longest]), device);
        Self {
            input: Flow::Tokens(token_tensor(&views, device)),
            mask: Some(mask),
            row_weights: Some(weights),
        }
    }

    /// Tokens or images in the batch.
    pub fn rows(&self) -> usize {
        fn rows(flow: &Flow) -> usize {
            match flow {
                Flow::Tokens(ids) => ids.dims().iter().product(),
                Flow::Hidden(x) => x.dims()[..2].iter().product(),
                Flow::Image(x) => x.dims()[0],
                Flow::Vector(x) => x.dims()[0],
                Flow::Pair(both) => rows(&both.0),
            }
        }
        rows(&self.input)
    }
}

fn token_tensor(rows: &[&[u32]], device: &Device) -> Tensor<2, Int> {
    let width = rows.first().map_or(0, |row| row.len());
    let ids: Vec<i64> = rows.iter().flat_map(|row| row.iter().map(|&id| i64::from(id))).collect();
    Tensor::from_data(TensorData::new(ids, [rows.len(), width]), device)
}

/// Cuts a token stream into consecutive windows; the short last one is dropped.
pub fn cut<'t>(tokens: &'t [u32], window: usize, vocab: usize, what: &str) -> Result<Vec<&'t [u32]>> {
    if let Some(&id) = tokens.iter().find(|&&id| id as usize >= vocab) {
        return Err(Error::Vocabulary { id, vocab });
    }
    if window == 0 || tokens.len() < window {
        return Err(Error::TooShort { what: what.into(), found: tokens.len(), window });
    }
    Ok(tokens.chunks_exact(window).collect())
}
