package head

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"kemi"
	"kemi/pipeline/codec"
	"kemi/pipeline/storetest"
)

// TestPieces: what was written comes back, write by write or as a stream; what is torn is an error.
func TestPieces(t *testing.T) {
	for _, plain := range []bool{false, true} {
		t.Run(fmt.Sprint("plain ", plain), func(t *testing.T) { testPieces(t, plain) })
	}
}

func testPieces(t *testing.T, plain bool) {
	rnd := rand.New(rand.NewPCG(storetest.Seed(t), 1))
	var out bytes.Buffer
	p := &pieces{w: &out, plain: plain}
	var writes [][]byte
	for range 300 {
		b := make([]byte, rnd.IntN(9000))
		for i := range b {
			b[i] = byte(rnd.IntN(1 + rnd.IntN(5)*60))
		}
		writes = append(writes, b)
		if n, err := p.Write(b); err != nil || n != len(b) {
			t.Fatal(n, err)
		}
	}
	noise := make([]byte, 300<<10) // does not pack
	for i := range noise {
		noise[i] = byte(rnd.Uint32())
	}
	writes = append(writes, noise, nil, []byte("end"))
	for _, b := range writes[len(writes)-3:] {
		if _, err := p.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(p.flush(), p.flush()); err != nil {
		t.Fatal(err)
	}
	in := inputOf(out.Bytes(), true)
	for i, w := range writes {
		if got := in.take(len(w)); !bytes.Equal(got, w) || in.err != nil {
			t.Fatalf("write %d of %d bytes: %d came back, %v", i, len(w), len(got), in.err)
		}
	}
	if in.more() || in.err != nil {
		t.Fatalf("more than was written, or %v", in.err)
	}
	if got, err := io.ReadAll(inputOf(out.Bytes(), true)); err != nil || !bytes.Equal(got, bytes.Join(writes, nil)) {
		t.Fatalf("as a stream %d bytes, %v", len(got), err)
	}
	whole := out.Bytes()
	longer := bytes.Clone(whole)
	binary.LittleEndian.PutUint32(longer[4:], 1<<31)
	for name, b := range map[string][]byte{"cut in a length": whole[:7], "cut in a piece": whole[:len(whole)-1], "another size": longer} {
		if _, err := io.ReadAll(inputOf(b, true)); !errors.Is(err, errTorn) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestManyPieces: a checkpoint of many series, pairs and exemplars comes back.
func TestManyPieces(t *testing.T) {
	dir := t.TempDir()
	cfg := testConfig(dir)
	db := mustOpen(t, cfg)
	w := newWriter(t, db)
	const n = 20_000
	at := time.Now().Add(-time.Minute).UnixMilli()
	ps := make([]kemi.Points, n)
	for i := range ps {
		ps[i] = kemi.Points{Labels: kemi.LabelsOf(kemi.MetricName, "many", "id", fmt.Sprintf("%064d", i)), At: []kemi.Millis{kemi.Millis(at), kemi.Millis(at + 1000)}, Values: []float64{float64(i), float64(-i)}}
	}
	w.put(ps...)
	for i := range 3000 {
		w.putComplex(&codec.Complex{Exemplars: []codec.Exemplar{{At: kemi.Millis(at + int64(i)), Value: 0.5, Labels: kemi.LabelsOf("trace_id", fmt.Sprintf("%032d", i))}}})
	}
	if err := db.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := toldBy(t, db)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(dir, checkpointPrefix+"*"))
	if err != nil || len(names) != 1 {
		t.Fatal(names, err)
	}
	info, err := os.Stat(names[0])
	if err != nil {
		t.Fatal(err)
	}
	if plain := int64(n*(38+4*2+2*12+4+64) + 3000*150); info.Size() > plain/2 || info.Size() < pieceFrom {
		t.Errorf("it has %d bytes, not packed some %d", info.Size(), plain)
	}
	if got := toldBy(t, mustOpen(t, cfg)); got != want {
		t.Fatalf("another %d bytes of text came back than the %d that there were", len(got), len(want))
	}
}

// TestCheckpointLeavesSettledOut: what is settled takes no room in a checkpoint, and the rest is as it was.
func TestCheckpointLeavesSettledOut(t *testing.T) {
	dir := t.TempDir()
	db := mustOpen(t, testConfig(dir))
	w := newWriter(t, db)
	at := time.Now().Add(-2 * time.Minute).UnixMilli() // none of the series rests
	size := func() int64 {
		t.Helper()
		if err := db.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		names, err := filepath.Glob(filepath.Join(dir, checkpointPrefix+"*"))
		if err != nil || len(names) != 1 {
			t.Fatal(names, err)
		}
		info, err := os.Stat(names[0])
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	rnd := rand.New(rand.NewPCG(storetest.Seed(t), 1))
	for i := range int64(30) { // all of it stays in buffers
		var ps []kemi.Points
		for k := range 1000 {
			ps = append(ps, one(fmt.Sprintf("s%04d", k), at+i*1000, rnd.Float64()))
		}
		w.put(ps...)
	}
	before := size()
	settleAll(t, db, at+20_500)
	after := size()
	if after > before/2 {
		t.Errorf("it had %d bytes, and has %d since two thirds are settled", before, after)
	}
	want := toldBy(t, db)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = mustOpen(t, testConfig(dir))
	if got := toldBy(t, db); got != want {
		t.Error("what is not settled is another after a start")
	}
	// It goes on from there: the buffers are packed, and late samples are found to be late.
	w.db = db
	for i := range int64(40) {
		w.put(one("s0000", at+30_000+i*1000, float64(i)))
	}
	w.put(one("s0000", at+25_500, 1))
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = mustOpen(t, testConfig(dir))
	if got := len(bytes.Fields([]byte(samples(t, db, "s0000")))); got != 9+40+1 {
		t.Errorf("%d samples, want 50", got)
	}
}
