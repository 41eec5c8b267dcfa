package wal

import (
	"context"
	"hash/crc32"

	"github.com/zeebo/xxh3"

	"kemi"
	"kemi/pipeline/bus"
)

// Publish implements bus.Bus. What of records goes to one partition is durable as a whole or not at all; a topic with
// one partition therefore keeps all records of a call together. Records without a key go to one partition, another one with each call.
func (w *WAL) Publish(ctx context.Context, topic string, records []bus.Record) error {
	t, err := w.topic(topic)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	var total int64
	for i := range records {
		n := recordSize(&records[i])
		if n > w.cfg.MaxRecordBytes {
			return kemi.Errorf(kemi.ErrTooLarge, "record %d of %d for topic %s has %d bytes: the limit (maxRecordBytes) is %d", i, len(records), topic, n, w.cfg.MaxRecordBytes)
		}
		total += n
	}
	if total > w.cfg.MaxBatchBytes {
		return kemi.Errorf(kemi.ErrTooLarge, "%d records for topic %s have %d bytes together: the limit (maxBatchBytes) is %d", len(records), topic, total, w.cfg.MaxBatchBytes)
	}
	now := kemi.MillisOf(w.now())
	for i := range records {
		if records[i].At == 0 {
			records[i].At = now
		}
	}
	switch {
	case len(records) == 0:
		return nil
	case len(t.partitions) == 1:
		return w.publish(ctx, t, t.partitions[:1], [][]bus.Record{records})
	}
	return w.publishSplit(ctx, t, records)
}

// publishSplit sends each record to the partition of its key.
func (w *WAL) publishSplit(ctx context.Context, t *topic, records []bus.Record) error {
	n := uint64(len(t.partitions))
	keyless := int32(uint64(t.turn.Add(1)) % n)
	places := make([]int32, len(records))
	parts := make([][]bus.Record, n)
	for i := range records {
		places[i] = keyless
		if key := records[i].Key; len(key) > 0 {
			places[i] = int32(xxh3.Hash(key) % n)
		}
		parts[places[i]] = append(parts[places[i]], records[i])
	}
	var to []*partition
	var have [][]bus.Record
	for i, part := range parts {
		if len(part) > 0 {
			to = append(to, t.partitions[i])
			have = append(have, part)
		}
	}
	if err := w.publish(ctx, t, to, have); err != nil {
		return err
	}
	for i := range records {
		part := parts[places[i]]
		records[i].Partition, records[i].Offset = part[0].Partition, part[0].Offset
		parts[places[i]] = part[1:]
	}
	return nil
}

// publish writes parts[i] to the partition to[i] and waits until all are durable.
func (w *WAL) publish(ctx context.Context, t *topic, to []*partition, parts [][]bus.Record) error {
	sizes := make([]frameSize, len(to))
	for i := range parts {
		sizes[i] = measure(parts[i])
		if limit := w.cfg.MaxBatchBytes + frameHeaderLen; sizes[i].bytes > limit {
			return kemi.Errorf(kemi.ErrTooLarge, "%d records for topic %s take %d bytes together: the limit (maxBatchBytes) is %d", len(parts[i]), t.name, sizes[i].bytes, limit)
		}
	}
	frames := make([]*frame, len(to))
	for i, p := range to {
		if err := w.pending.Acquire(ctx, sizes[i].bytes); err != nil {
			return w.gaveUp(t, i > 0, err)
		}
		f := w.frames.Get().(*frame)
		f.home = &w.frames
		f.encode(parts[i], sizes[i])
		if err := p.enqueue(f); err != nil {
			w.pending.Release(sizes[i].bytes)
			if i > 0 {
				return w.gaveUp(t, true, err)
			}
			return err
		}
		frames[i] = f
	}
	var failed error
	for i, f := range frames {
		select {
		case err := <-f.done:
			if err != nil {
				failed = err
				continue
			}
			for j := range parts[i] {
				parts[i][j].Partition, parts[i][j].Offset = to[i].id, f.h.first+int64(j)
			}
			f.drop()
		case <-ctx.Done():
			return w.gaveUp(t, true, ctx.Err())
		}
	}
	return failed
}

func (w *WAL) gaveUp(t *topic, unknown bool, err error) error {
	if !unknown {
		return kemi.Errorf(kemi.ErrUnavailable, "publish to topic %s: nothing was written: %w", t.name, err)
	}
	return kemi.Errorf(kemi.ErrUnavailable, "publish to topic %s: whether it was written is not known: %w", t.name, err)
}

// sized is what a Local may say of itself: how much memory it holds.
type sized interface{ MemoryBytes() int64 }

// frameSize is what must be known of records before they are encoded.
type frameSize struct {
	bytes  int64 // header included
	newest kemi.Millis
}

func measure(records []bus.Record) frameSize {
	s := frameSize{frameHeaderLen, records[0].At}
	for i := range records {
		s.newest = max(s.newest, records[i].At)
	}
	for i := range records {
		n := encodedLen(&records[i], s.newest)
		s.bytes += int64(uvarintLen(uint64(n)) + n)
	}
	return s
}

// encode puts records into f, all but what the writer fills in.
func (f *frame) encode(records []bus.Record, size frameSize) {
	if int64(cap(f.buf)) < size.bytes {
		f.buf = make([]byte, size.bytes)
	}
	f.h = frameHeader{count: uint32(len(records)), newest: size.newest}
	f.locals, f.charge = nil, size.bytes
	f.users.Store(1)
	b := f.buf[:frameHeaderLen]
	for i := range records {
		r := &records[i]
		b = appendRecord(b, r, f.h.newest)
		if r.Local == nil {
			continue
		}
		if f.locals == nil {
			f.locals = make([]any, len(records))
		}
		f.locals[i] = r.Local
		if s, ok := r.Local.(sized); ok {
			f.charge += s.MemoryBytes()
		} else {
			f.charge += 4 * int64(len(r.Value)) // decoded columns against a compressed body
		}
	}
	f.buf = b
	f.h.length = uint32(len(b) - frameHeaderLen)
	f.h.sum = crc32.Checksum(b[frameHeaderLen:], castagnoli)
}
