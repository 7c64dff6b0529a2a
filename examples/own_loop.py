"""vicc's loss in a training loop of one's own: 30 lines of PyTorch in place of `vicc pretrain`.

vicc demo-videos videos --train 40 --test 20
vicc prepare videos --store store
python own_loop.py store 20
"""

import sys

import torch

from vicc.data import ClipDataset, ClipLoader, EpochBatches, Store
from vicc.methods import Encoder, EncoderConfig, SingleStream
from vicc.transforms import Augmentation


def main(place: str, steps: int) -> list[float]:
    """Train a flow encoder on the videos of a store for so many steps; returns the losses."""
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig("flow", backbone="s3d-demo", clip_frames=16, size=48))
    task = SingleStream(encoder, num_prototypes=30)
    optimizer = torch.optim.AdamW(task.parameters(), lr=3e-3)
    store = Store(place)
    dataset = ClipDataset(
        store,
        store.videos,
        streams=("flow",),
        num_views=2,
        clip_frames=16,
        stride=1,
        size=48,
        distance="far",
        augmentation=Augmentation(),
        seed=0,
    )
    batches = EpochBatches(len(dataset), min(16, len(dataset)), first_step=0, last_step=steps, seed=0)
    losses = []
    loader = ClipLoader(dataset, batches, workers=0)
    for step, batch in enumerate(loader):  # clips (B, V, C, T, H, W) of each stream, uint8
        task.before_step()  # prototypes to unit length
        loss = task(batch, epoch=0)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        print(f"step {step + 1}: loss {losses[-1]:.3f}")
    return losses


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
