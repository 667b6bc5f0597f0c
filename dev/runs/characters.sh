# War and Peace byte by byte, to hold beside bpe.sh, which says why so many steps.
source='our own comparison; see bpe'
published='none; expected: more bits per byte than bpe'
figures='val_bits_per_byte:lowest'
prepare() { fetch war-and-peace; }
settings='--data data/war-and-peace.txt --validation 0.05 --test 0
    --layers 4 --heads 4 --channels 128 --context 64 --batch 12 --steps 2000 --order windows
    --lr 1e-3 --warmup 100 --weight-decay 0.1 --beta2 0.99 --clip 1 --eval-every 400'
ours='--eval-batches 0 --log-every 200'
