# Grokking: (a + b) mod 97, 30% of the table to train on.  The training part is memorized
# long before the other 70% are right.
source='after Power et al. 2022, arXiv:2201.02177; the settings are our own'
published='training accuracy at 100% long before validation accuracy'
figures='train_accuracy:0.99 val_accuracy:0.99'
prepare() { make_text modular; }
settings='--data data/modular.txt --rows --answer-after = --validation 0.7 --test 0
    --layers 1 --heads 4 --channels 128 --context 5 --batch 512 --steps 3000
    --lr 1e-3 --schedule constant --warmup 10 --weight-decay 1 --beta2 0.98 --clip 1 --eval-every 50'
ours='--order epochs --eval-batches 0 --sample 0 --log-every 200 --micro-batch 512'
pytorch='--order epochs'
