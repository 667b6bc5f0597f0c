# A vocabulary of 4,096 tokens learned from War and Peace.  characters.sh is the same model on the
# bytes of the same text, with as many FLOPs: 2,000 steps at 5.19 million FLOPs a token are 1,257
# at 8.26 million (./train info), since a larger vocabulary costs more in the output head.
source='our own comparison; see characters'
published='none; expected: fewer bits per byte than characters'
figures='val_bits_per_byte:lowest'
prepare() {
    [ -z "${PYTORCH-}" ] || [ -f out/bpe-1/vocab.json ] ||
        fail "PyTorch takes the vocabulary of out/bpe-1: train that first, without PYTORCH"
    fetch war-and-peace
}
settings='--data data/war-and-peace.txt --validation 0.05 --test 0
    --layers 4 --heads 4 --channels 128 --context 64 --batch 12 --steps 1257 --order windows
    --lr 1e-3 --warmup 100 --weight-decay 0.1 --beta2 0.99 --clip 1 --eval-every 419'
ours='--vocab 4096 --eval-batches 0 --log-every 200'
pytorch='--tokenizer out/bpe-1'
