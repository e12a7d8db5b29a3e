//! Edges of a convolutional network that diagonal maps move over.

use trimtab_nn::{BatchNormEdge, MatrixPart, NormEdge, NormKind, ScaleEdge, SiteKind, Wiring};

use super::op::Op;

/// Adds the edges between layers that run one after another.
///
/// Maps of a squeeze, and layers on both sides of an activation or a pool, are no edges: there a factor would not pass.
pub(super) fn wire(wiring: &mut Wiring, ops: &[Op]) {
    for (i, op) in ops.iter().enumerate() {
        let before = i.checked_sub(1).and_then(|i| map(&ops[i]));
        match op {
            Op::BatchNorm { name, axis, eps, .. } => wiring.batch_norms.push(BatchNormEdge {
                name: name.clone(),
                eps: *eps,
                size: axis.size(),
                source: before,
            }),
            Op::Scale { name, shape } => wiring.scales.push(ScaleEdge {
                tensor: name.clone(),
                size: shape.iter().product(),
                sources: before.into_iter().collect(),
                stream: None,
            }),
            Op::LayerNorm { name, axis, .. } => {
                let reader =
                    ops.get(i + 1).and_then(map).filter(|part| part.dims[1] == axis.size() * part.spread);
                let obstacle =
                    reader.is_none().then(|| "no linear map reads what it gives, and it alone".into());
                wiring.norms.push(NormEdge {
                    name: name.clone(),
                    kind: NormKind::Layer,
                    gain: format!("{name}.weight"),
                    bias: Some(format!("{name}.bias")),
                    offset: 0.0,
                    axis: axis.clone(),
                    stream: None,
                    // Patches are not the pixels that the norm gives.
                    seen_by: reader.as_ref().filter(|part| part.spread == 1).and_then(|_| site(&ops[i + 1])),
                    readers: reader.into_iter().collect(),
                    obstacle,
                    tied: false,
                });
            }
            _ => {}
        }
    }
}

/// The weight of a map.
fn map(op: &Op) -> Option<MatrixPart> {
    match op {
        Op::Conv { site, bias, same } => {
            let part = MatrixPart::of_site(site, *bias);
            Some(MatrixPart { pads: part.pads || *same, ..part })
        }
        Op::Linear { site, bias } => Some(MatrixPart::of_site(site, *bias)),
        _ => None,
    }
}

fn site(op: &Op) -> Option<String> {
    match op {
        Op::Conv { site, .. } | Op::Linear { site, .. } => {
            matches!(site.kind, SiteKind::Linear | SiteKind::Conv(_)).then(|| site.name.clone())
        }
        _ => None,
    }
}
