package wal

import (
	"bytes"
	"reflect"
	"testing"

	"kemi"
	"kemi/pipeline/bus"
)

func encoded(t testing.TB, records ...bus.Record) *frame {
	t.Helper()
	f := &frame{}
	f.encode(records, measure(records))
	f.h.put(f.buf, 7)
	return f
}

func TestFrameSizes(t *testing.T) {
	for _, n := range []int{0, 1, 127, 128, 16383, 16384, 1 << 21} {
		r := bus.Record{Key: make([]byte, n), Value: make([]byte, n), Headers: []bus.Header{{Name: string(make([]byte, n)), Value: "v"}}, At: kemi.Millis(n)}
		other := bus.Record{At: -1 << 62}
		f := encoded(t, r, other)
		if got, want := int64(len(f.buf)), measure([]bus.Record{r, other}).bytes; got != want {
			t.Fatalf("%d: encoded to %d bytes, measured %d", n, got, want)
		}
		h, ok := parseFrameHeader(f.buf, 7)
		if !ok || h != f.h {
			t.Fatalf("header %v, want %v", h, f.h)
		}
		if _, ok := parseFrameHeader(f.buf, 8); ok {
			t.Fatal("a header of another segment is taken")
		}
		got, err := (&decoder{}).decode(nil, h, f.buf[frameHeaderLen:], 0, 0)
		if err != nil || len(got) != 2 || len(got[0].Value) != n || got[0].At != r.At || got[1].At != other.At || got[0].Headers[0] != r.Headers[0] {
			t.Fatalf("%d: %d records, %v", n, len(got), err)
		}
	}
}

// Whatever the bytes are, decoding ends, keeps within them, and gives what encodes to the same records again.
func FuzzDecode(f *testing.F) {
	for _, records := range goldenRecords() {
		fr := encoded(f, records...)
		f.Add(fr.h.count, int64(fr.h.newest), fr.buf[frameHeaderLen:])
	}
	f.Add(uint32(1), int64(0), []byte{3, 0, 0, 0})
	f.Add(uint32(1), int64(-1), []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Add(uint32(1<<31), int64(1), []byte{5, 0, 0, 0xff, 0xff, 0x03})
	f.Fuzz(func(t *testing.T, count uint32, newest int64, body []byte) {
		h := frameHeader{count: count, newest: kemi.Millis(newest), first: 10, length: uint32(len(body))}
		records, err := (&decoder{}).decode(nil, h, body, 1, 0)
		if err != nil {
			return
		}
		if len(records) != int(count) {
			t.Fatalf("%d records, want %d", len(records), count)
		}
		if count == 0 {
			return
		}
		for i := range records {
			if records[i].Offset != 10+int64(i) || records[i].Partition != 1 {
				t.Fatalf("record %d has offset %d", i, records[i].Offset)
			}
		}
		again := encoded(t, records...)
		again.h.first = 10
		second, err := (&decoder{}).decode(nil, again.h, again.buf[frameHeaderLen:], 1, 0)
		if err != nil || !reflect.DeepEqual(records, second) {
			t.Fatalf("%v\n%v\n%v", records, second, err)
		}
	})
}

// Whatever a segment holds, recovery ends with a prefix of it that recovers to itself, or refuses.
func FuzzScan(f *testing.F) {
	whole := make([]byte, segmentHeaderLen)
	next := int64(0)
	for _, records := range goldenRecords() {
		fr := encoded(f, records...)
		fr.h.first, fr.h.durable = next, int64(len(whole))
		fr.h.put(fr.buf, 7)
		whole = append(whole, fr.buf...)
		next = fr.h.next()
	}
	f.Add(whole)
	f.Add(whole[:len(whole)-1])
	f.Add(append(bytes.Clone(whole), whole...))
	f.Add(append(bytes.Clone(whole), make([]byte, 100)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < segmentHeaderLen {
			return
		}
		fresh := func() *segment { return &segment{salt: 7, size: segmentHeaderLen} }
		s := fresh()
		bad, err := s.scan(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		if s.size > int64(len(b)) || bad == "" && s.size != int64(len(b)) {
			t.Fatalf("%d of %d bytes are good: %s", s.size, len(b), bad)
		}
		if _, err := durableAfter(bytes.NewReader(b), s.size, int64(len(b)), 7); err != nil {
			t.Fatal(err)
		}
		again := fresh()
		if bad, err := again.scan(bytes.NewReader(b[:s.size]), s.size); err != nil || bad != "" || !reflect.DeepEqual(s, again) {
			t.Fatalf("the good part alone: %s, %v", bad, err)
		}
	})
}

func FuzzIndex(f *testing.F) {
	s := &segment{base: 5, salt: 7, size: segmentHeaderLen}
	f.Add(s.marshalIndex())
	s.add(frameHeader{first: 5, count: 3, newest: 9}, 100)
	f.Add(s.marshalIndex())
	f.Fuzz(func(t *testing.T, b []byte) {
		s := &segment{base: 5, salt: 7, size: segmentHeaderLen}
		if s.unmarshalIndex(b) == nil && !bytes.Equal(s.marshalIndex(), b) {
			t.Fatal("an index that is taken does not encode to itself")
		}
	})
}
