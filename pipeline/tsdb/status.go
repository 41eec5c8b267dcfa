package tsdb

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb/chunks"

	"kemi"
)

// Stats is what the whole store holds, all projects together.
type Stats struct {
	Series       uint64      // in memory
	MinTime      kemi.Millis // of what is in memory
	MaxTime      kemi.Millis
	Blocks       int
	BlockSamples uint64
	BlockBytes   int64
	LogBytes     int64 // of the head's WAL and of the log of late samples
}

// Stats tells what the store holds.
func (db *DB) Stats() Stats {
	h := db.db.Head()
	s := Stats{
		Series: h.NumSeries(), MinTime: kemi.Millis(h.MinTime()), MaxTime: kemi.Millis(h.MaxTime()),
		LogBytes: dirSize(filepath.Join(db.cfg.Dir, walDir)) + dirSize(filepath.Join(db.cfg.Dir, wblDir)),
	}
	for _, b := range db.db.Blocks() {
		s.Blocks++
		s.BlockSamples += b.Meta().Stats.NumSamples
		s.BlockBytes += b.Size()
	}
	return s
}

type (
	// status has the form of Prometheus' /api/v1/status/tsdb.
	status struct {
		Head            headStatus  `json:"headStats"`
		SeriesByMetric  []nameCount `json:"seriesCountByMetricName"`
		ValuesByLabel   []nameCount `json:"labelValueCountByLabelName"`
		BytesByLabel    []nameCount `json:"memoryInBytesByLabelName"`
		SeriesByPairing []nameCount `json:"seriesCountByLabelValuePair"`
	}
	headStatus struct {
		Series     uint64 `json:"numSeries"`
		LabelPairs int    `json:"numLabelPairs"`
		Chunks     int64  `json:"chunkCount"`
		MinTime    int64  `json:"minTime"`
		MaxTime    int64  `json:"maxTime"`
	}
	nameCount struct {
		Name  string `json:"name"`
		Value uint64 `json:"value"`
	}
)

// Status tells which metrics and labels of the identity's project take how much of what is in memory, the limit largest of each.
func (db *DB) Status(ctx context.Context, id kemi.Identity, limit int) (any, error) {
	if err := mayRead(id); err != nil {
		return nil, err
	}
	head := db.db.Head()
	ir, err := head.Index()
	if err != nil {
		return nil, fmt.Errorf("status of series: %w", err)
	}
	defer ir.Close()
	p, err := ir.Postings(ctx, projectLabel, id.Project)
	if err != nil {
		return nil, fmt.Errorf("status of series: %w", err)
	}
	s := status{Head: headStatus{MinTime: head.MinTime(), MaxTime: head.MaxTime()}}
	metrics, values, bytes, pairs := map[string]uint64{}, map[string]uint64{}, map[string]uint64{}, map[labels.Label]uint64{}
	var b labels.ScratchBuilder
	var metas []chunks.Meta
	for p.Next() {
		if s.Head.Series%1024 == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err := ir.Series(p.At(), &b, &metas); err != nil {
			continue // gone meanwhile
		}
		s.Head.Series++
		s.Head.Chunks += int64(len(metas))
		b.Labels().Range(func(l labels.Label) {
			if l.Name == projectLabel {
				return
			}
			if l.Name == kemi.MetricName {
				metrics[l.Value]++
			}
			if pairs[l]++; pairs[l] == 1 {
				values[l.Name]++
				bytes[l.Name] += uint64(len(l.Value))
			}
		})
	}
	if err := p.Err(); err != nil {
		return nil, fmt.Errorf("status of series: %w", err)
	}
	s.Head.LabelPairs = len(pairs)
	byPair := make(map[string]uint64, len(pairs))
	for l, n := range pairs {
		byPair[l.Name+"="+l.Value] = n
	}
	s.SeriesByMetric, s.ValuesByLabel = largest(metrics, limit), largest(values, limit)
	s.BytesByLabel, s.SeriesByPairing = largest(bytes, limit), largest(byPair, limit)
	return s, nil
}

// largest is the entries with the largest counts, in descending order.
func largest(m map[string]uint64, limit int) []nameCount {
	all := make([]nameCount, 0, len(m))
	for k, v := range m {
		all = append(all, nameCount{k, v})
	}
	slices.SortFunc(all, func(a, b nameCount) int {
		return cmp.Or(cmp.Compare(b.Value, a.Value), strings.Compare(a.Name, b.Name))
	})
	return all[:min(limit, len(all))]
}
