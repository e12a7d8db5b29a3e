//! The embedding of a plan.

use trimtab_nn::conv::ConvGeometry;
use trimtab_nn::{Axis, SiteKind, SiteMeta};

use super::plan::{Blueprint, linear};
use super::stage_plan::EmbedPlan;
use super::{EmbedProjection, Input, SitePlan, Start, TableForm, TablePlan};

impl Blueprint {
    pub fn embed(&self) -> EmbedPlan {
        let (c, names) = (&self.config, &self.names);
        let (embedded, residual) = (self.embedded(), self.residual());
        let site = self.entrance(embedded.clone());
        let start = if site.kind == SiteKind::Embedding { Start::Vocabulary } else { Start::Normal };
        let projection = names.embed_projection.as_ref().filter(|_| c.embed_width != c.width).map(|name| {
            let meta = linear(self.module(name), &format!("{}embedded", self.scope), &embedded, &residual);
            SitePlan { meta, bias: c.biases.embed_projection, start: Start::Normal }
        });
        let inner = match c.embed_projection {
            EmbedProjection::First => residual,
            EmbedProjection::Last => embedded,
        };
        let table = |name: &Option<String>, rows: Option<usize>, form: TableForm| {
            let (name, rows, width) = (self.module(name.as_ref()?), rows?, inner.size());
            let (tensor, shape) = match form {
                TableForm::Module => (format!("{name}.weight"), vec![rows, width]),
                TableForm::Batched => (name, vec![1, rows, width]),
                TableForm::Vector => (name, vec![width]),
            };
            Some(TablePlan { tensor, shape, start: Start::Normal })
        };
        let tokens = names.tokens.iter().map(|name| Some(name.clone()));
        EmbedPlan {
            site: SitePlan { meta: site, bias: c.biases.embed, start },
            borrowed: c.borrows_embedding,
            stem: names.stem.as_ref().map(|name| self.stem(name)),
            projection,
            tokens: tokens.filter_map(|name| table(&name, Some(1), c.token_form)).collect(),
            positions: table(&names.positions, c.positions.map(|learned| learned.rows), c.position_form),
            token_types: table(&names.token_types, c.token_types, TableForm::Module),
            norm: self.norm(&names.embed_norm, inner.clone()),
        }
    }

    /// The site that turns the input into rows.
    fn entrance(&self, embedded: Axis) -> SiteMeta {
        let name = self.module(&self.names.embed);
        match self.config.input {
            Input::Tokens { vocab } => SiteMeta {
                name,
                kind: SiteKind::Embedding,
                rows: vocab,
                cols: embedded.size(),
                transposed: false,
                input: embedded,
                output: self.axis("vocabulary", vocab),
                reads: format!("{}tokens", self.scope),
                fused: None,
            },
            Input::Audio { mels, .. } => SiteMeta {
                name,
                kind: SiteKind::Conv1d(ConvGeometry {
                    kernel: [1, 3],
                    stride: [1, 1],
                    padding: [0, 1],
                    groups: 1,
                }),
                rows: embedded.size(),
                cols: 3 * mels,
                transposed: false,
                input: self.axis("spectrogram", mels),
                output: self.axis("stem", embedded.size()),
                reads: format!("{}spectrogram", self.scope),
                fused: None,
            },
            Input::Patches { patch, channels, .. } => SiteMeta {
                name,
                kind: SiteKind::Conv(ConvGeometry {
                    kernel: [patch; 2],
                    stride: [patch; 2],
                    padding: [0; 2],
                    groups: 1,
                }),
                rows: embedded.size(),
                cols: channels * patch * patch,
                transposed: false,
                input: self.axis("image", channels),
                output: embedded,
                reads: format!("{}image", self.scope),
                fused: None,
            },
        }
    }

    /// The second convolution of a spectrogram; it halves the length.
    fn stem(&self, name: &str) -> SitePlan {
        let residual = self.residual();
        let geometry = ConvGeometry { kernel: [1, 3], stride: [1, 2], padding: [0, 1], groups: 1 };
        let mut meta = linear(self.module(name), &format!("{}stem", self.scope), &residual, &residual);
        (meta.kind, meta.cols) = (SiteKind::Conv1d(geometry), 3 * residual.size());
        meta.input = self.axis("stem", residual.size());
        SitePlan { meta, bias: self.config.biases.embed, start: Start::Normal }
    }
}
