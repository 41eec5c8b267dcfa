package wal

import (
	"context"

	"kemi"
)

// OffsetAt is the offset of the first record of a partition that was published at or after at, or the offset that the
// next record will get if there is none.
func (w *WAL) OffsetAt(_ context.Context, topic string, partition int32, at kemi.Millis) (int64, error) {
	t, err := w.topic(topic)
	if err != nil {
		return 0, err
	}
	if partition < 0 || int(partition) >= len(t.partitions) {
		return 0, kemi.Errorf(kemi.ErrInvalid, "partition %d: topic %s has %d partitions", partition, topic, len(t.partitions))
	}
	for {
		if offset, ok, err := t.partitions[partition].offsetAt(at); ok || err != nil {
			return offset, err
		}
	}
}

// offsetAt is not ok if retention came in between.
func (p *partition) offsetAt(at kemi.Millis) (offset int64, ok bool, err error) {
	p.mu.Lock()
	next := p.active().next
	var seg *segment
	var pos, end int64
	for _, s := range p.segments {
		if !s.empty() && s.newest >= at {
			seg, pos, end = s, s.findTime(at), s.size
			break
		}
	}
	p.mu.Unlock()
	if seg == nil {
		return next, true, nil
	}
	f, err := openAt(p, seg, seg.base)
	if f == nil {
		return 0, false, err
	}
	c := &cursor{p: p, seg: seg, file: f}
	defer c.closeFile()
	header := make([]byte, frameHeaderLen)
	for pos < end {
		if err := c.readFull(header, pos, seg.base); err != nil {
			return 0, false, err
		}
		h, ok := parseFrameHeader(header, seg.salt)
		size := frameHeaderLen + int64(h.length)
		if !ok || pos+size > end {
			return 0, false, c.corrupt(pos, seg.base, "no frame begins there")
		}
		if h.newest >= at {
			got := c.readFrames(pos, pos+size, h.first)
			if got.err != nil {
				return 0, false, got.err
			}
			for _, r := range got.records {
				if r.At >= at {
					return r.Offset, true, nil
				}
			}
		}
		pos += size
	}
	return next, true, nil
}
