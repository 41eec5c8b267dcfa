package tsduid

import (
	"cmp"
	"context"
	"encoding/hex"
	"slices"
	"strings"

	"kemi"
)

// TSUIDs are the TSUIDs of series, in their order. Names without a number get one.
func (t *Table) TSUIDs(ctx context.Context, project string, series []kemi.Labels) ([]string, error) {
	var list [kinds][]string
	for _, ls := range series {
		for _, l := range ls {
			if l.Name == kemi.MetricName {
				list[Metric] = append(list[Metric], l.Value)
				continue
			}
			list[TagKey], list[TagValue] = append(list[TagKey], l.Name), append(list[TagValue], l.Value)
		}
	}
	var ids [kinds][]UID
	for k := range kinds {
		if len(list[k]) == 0 {
			continue
		}
		var err error
		if ids[k], err = t.Number(ctx, project, k, list[k]); err != nil {
			return nil, err
		}
	}
	out := make([]string, len(series))
	m, tag := 0, 0
	type pair struct{ key, value UID }
	var pairs []pair
	for i, ls := range series {
		var b strings.Builder
		pairs = pairs[:0]
		for _, l := range ls {
			if l.Name == kemi.MetricName {
				b.WriteString(ids[Metric][m].String())
				m++
				continue
			}
			pairs = append(pairs, pair{ids[TagKey][tag], ids[TagValue][tag]})
			tag++
		}
		slices.SortFunc(pairs, func(a, b pair) int { return cmp.Compare(a.key, b.key) })
		for _, p := range pairs {
			b.WriteString(p.key.String())
			b.WriteString(p.value.String())
		}
		out[i] = b.String()
	}
	return out, nil
}

// Bytes reads hexadecimal digits as OpenTSDB does.
func Bytes(id string) ([]byte, error) {
	if id == "" {
		return nil, kemi.Errorf(kemi.ErrInvalid, "UID was empty")
	}
	if len(id)%2 > 0 {
		id = "0" + id
	}
	b, err := hex.DecodeString(id)
	if err != nil {
		return nil, kemi.Errorf(kemi.ErrInvalid, "contains illegal character for hexBinary: %.100s", id)
	}
	return b, nil
}

// Parse reads a UID.
func Parse(k Kind, s string) (UID, error) {
	b, err := Bytes(s)
	if err != nil {
		return 0, err
	}
	if len(b) != Width {
		return 0, kemi.Errorf(kemi.ErrInvalid, "Wrong id.length = %d which is != %d required for '%s'", len(b), Width, k)
	}
	return UID(b[0])<<16 | UID(b[1])<<8 | UID(b[2]), nil
}

// Canonical is a TSUID as it is written here; an error if it cannot be one.
func Canonical(tsuid string) (string, error) {
	b, err := Bytes(tsuid)
	if err != nil {
		return "", err
	}
	return strings.ToUpper(hex.EncodeToString(b)), nil
}

// Series are the labels of the series that the TSUIDs name, in their order; nil for one that has a number which nobody was given, or that is no TSUID.
func (t *Table) Series(ctx context.Context, project string, tsuids []string) ([]kemi.Labels, error) {
	out := make([]kemi.Labels, len(tsuids))
	for i, s := range tsuids {
		b, err := hex.DecodeString(s)
		if err != nil || len(b) < Width || len(b)%(2*Width) != Width {
			continue
		}
		next := func(k Kind) (name string, ok bool, err error) {
			id := UID(b[0])<<16 | UID(b[1])<<8 | UID(b[2])
			b = b[Width:]
			return t.Name(ctx, project, k, id)
		}
		name, ok, err := next(Metric)
		if err != nil {
			return nil, err
		}
		pairs := []string{kemi.MetricName, name}
		for ok && len(b) > 0 {
			var key, value string
			if key, ok, err = next(TagKey); err != nil {
				return nil, err
			}
			known := ok
			if value, ok, err = next(TagValue); err != nil {
				return nil, err
			}
			ok = ok && known
			pairs = append(pairs, key, value)
		}
		if ok {
			out[i] = kemi.LabelsOf(pairs...)
		}
	}
	return out, nil
}
