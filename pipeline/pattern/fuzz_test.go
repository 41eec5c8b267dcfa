package pattern

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"kemi"
	"kemi/pipeline/store"
)

// FuzzLossless takes lines of any bytes, and values of attributes, apart and puts them together again.
func FuzzLossless(f *testing.F) {
	g := newLines(3)
	for range 40 {
		f.Add(g.body()+"\n"+g.body()+"\n"+g.body(), g.body(), int64(g.at))
	}
	f.Add("26/11/20 00:00:00\n20261120-01:02:03:004\n1795132800\n1795132800123\n12:00:00.5", "1", int64(1795132800e9))
	f.Add("9223372036854775807\n9223372036854775808\n0000000000000000001", "99999999999999999999", int64(-5))
	f.Fuzz(func(t *testing.T, text, attr string, at int64) {
		var rs []kemi.LogRecord
		for i, l := range strings.Split(text, "\n") {
			r := kemi.LogRecord{ID: string(appendID(nil, "0-00000000001-", uint64(i))), Project: "p", At: kemi.Nanos(at + int64(i)), Body: l}
			if attr != "" && i%2 == 0 {
				r.Attrs = kemi.Labels{{Name: "a", Value: attr}}
			}
			rs = append(rs, r, r)
			rs[len(rs)-1].ID += "x"
			if len(rs) > 2000 {
				break
			}
		}
		checkSame(t, rs)
	})
}

// FuzzOpen opens blocks that have been changed: whatever comes of it is an error or records, and never a panic.
func FuzzOpen(f *testing.F) {
	g := newLines(4)
	data, m, err := Encode(g.records(200))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint32(9), byte(1), uint32(0), byte(0), uint32(0))
	for range 20 {
		f.Add(g.Uint32()%uint32(len(data)), byte(g.Uint32()), g.Uint32()%uint32(len(data)), byte(g.Uint32()), uint32(g.IntN(40)))
	}
	exprs := []store.LogExpr{store.LogPhrase{Text: "took 5ms"}, store.LogPhrase{Field: "status", Text: "404"}, store.LogExists{Field: "msg"}}
	f.Fuzz(func(_ *testing.T, at uint32, with byte, at2 uint32, with2 byte, short uint32) {
		d := slices.Clone(data)
		d[int(at)%len(d)] ^= with
		d[int(at2)%len(d)] ^= with2
		openAny(d[:len(d)-int(short)%len(d)], m, exprs)
	})
}

// FuzzDirectory changes the directory itself, behind its packing.
func FuzzDirectory(f *testing.F) {
	g := newLines(4)
	rs := g.records(200)
	e := newEncoder()
	data := e.encode([][]kemi.LogRecord{rs})
	d := slices.Clone(e.directory)
	_, m, err := Encode(rs)
	if err != nil {
		f.Fatal(err)
	}
	for range 20 {
		f.Add(g.Uint32()%uint32(len(d)), byte(g.Uint32()), g.Uint32()%uint32(len(d)), byte(g.Uint32()))
	}
	exprs := []store.LogExpr{store.LogPhrase{Text: "took 5ms"}, store.LogPhrase{Field: "status", Text: "404"}, store.LogExists{Field: "msg"}}
	f.Fuzz(func(_ *testing.T, at uint32, with byte, at2 uint32, with2 byte) {
		c := slices.Clone(d)
		c[int(at)%len(c)] = with
		c[int(at2)%len(c)] = with2
		openAny(withDirectory(data, c), m, exprs)
	})
}

func openAny(data []byte, m Meta, exprs []store.LogExpr) {
	b, err := Open(data, m, NewTemplates())
	if err != nil {
		return
	}
	_ = b.Records(all(m.Records), func(int, *kemi.LogRecord) bool { return true })
	_, _ = b.IDs()
	for _, e := range exprs {
		s, err := NewQuery(e, store.NanoRange{From: m.From, To: m.To}).Select(b)
		if err != nil {
			continue
		}
		_ = s.Histogram(1000, func(kemi.Millis, kemi.Severity, int64) {})
		_ = s.CountBy([]string{"status", "msg"}, func([]string, int64) {})
		_, _ = s.Fields()
		s.Close()
	}
}

// withDirectory is the block with another directory.
func withDirectory(data, d []byte) []byte {
	at := word(data, 2)
	out := slices.Clone(data[:at])
	binary.LittleEndian.PutUint32(out[20:], uint32(len(d)))
	return newPackers().quick.EncodeAll(d, out)
}
