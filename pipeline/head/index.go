package head

import (
	"slices"
	"strings"

	"kemi"
)

// space is the series of a project: projects share nothing but the slabs. What it holds is guarded by DB.mu.
type space struct {
	name   string
	number uint32
	names  map[string]*labelName
	pairs  []pair
	free   []uint32 // pairs that no series has
	table  []uint32 // 1 + the number of a series, by the hash of its pairs: open addressing
	ids    []uint32 // all that are alive, ascending
	order  order
}

// labelName is the values of a name.
type labelName struct {
	name   string
	values map[string]uint32 // the pair of each
}

// pair is a name and a value, and the series that have both, ascending.
type pair struct {
	name, value string
	first       uint32 // if any
	more        []uint32
	any         bool
}

func (p *pair) add(id uint32) {
	if !p.any {
		p.first, p.any = id, true
		return
	}
	p.more = append(p.more, id)
}

func (p *pair) len() int {
	if !p.any {
		return 0
	}
	return 1 + len(p.more)
}

func newSpace(name string, number uint32) *space {
	return &space{name: name, number: number, names: map[string]*labelName{}, table: make([]uint32, 16)}
}

// pairOf is the number of a name and value, made if need be.
func (sp *space) pairOf(name, value string) uint32 {
	n := sp.names[name]
	if n == nil {
		n = &labelName{name: strings.Clone(name), values: map[string]uint32{}} // not of the batch's memory
		sp.names[n.name] = n
	}
	if p, ok := n.values[value]; ok {
		return p
	}
	value = strings.Clone(value)
	var p uint32
	if k := len(sp.free); k > 0 {
		p = sp.free[k-1]
		sp.free = sp.free[:k-1]
	} else {
		p = uint32(len(sp.pairs))
		sp.pairs = append(sp.pairs, pair{})
	}
	sp.pairs[p] = pair{name: n.name, value: value}
	n.values[value] = p
	return p
}

// known is the numbers of labels, or false if one of them is new. It appends to pairs.
func (sp *space) known(pairs []uint32, ls kemi.Labels) ([]uint32, bool) {
	for _, l := range ls {
		if l.Name == "" || l.Value == "" {
			continue
		}
		n := sp.names[l.Name]
		if n == nil {
			return pairs, false
		}
		p, ok := n.values[l.Value]
		if !ok {
			return pairs, false
		}
		pairs = append(pairs, p)
	}
	return pairs, true
}

// hashOf mixes the numbers of pairs.
func hashOf(pairs []uint32) uint32 {
	h := uint64(len(pairs)) * 0x9E3779B97F4A7C15
	for _, p := range pairs {
		h = (h ^ uint64(p)) * 0xff51afd7ed558ccd
		h ^= h >> 32
	}
	return uint32(h)
}

// find is the series with these pairs.
func (db *DB) find(sp *space, pairs []uint32, hash uint32) (id uint32, ok bool) {
	mask := uint32(len(sp.table) - 1)
	for i := hash & mask; ; i = (i + 1) & mask {
		e := sp.table[i]
		if e == 0 {
			return 0, false
		}
		if s := db.at(e - 1); s.hash == hash && s.is(live) && slices.Equal(db.pairsOf(s), pairs) {
			return e - 1, true
		}
	}
}

// enter puts a series into the table and under its pairs.
func (db *DB) enter(sp *space, id uint32, s *series) {
	if 4*(len(sp.ids)+1) > 3*len(sp.table) {
		db.rehash(sp, len(sp.ids)+1)
	}
	sp.put(id, s.hash)
	for _, p := range db.pairsOf(s) {
		sp.pairs[p].add(id)
	}
	sp.ids = append(sp.ids, id)
}

func (sp *space) put(id, hash uint32) {
	mask := uint32(len(sp.table) - 1)
	i := hash & mask
	for sp.table[i] != 0 {
		i = (i + 1) & mask
	}
	sp.table[i] = id + 1
}

// rehash makes the table anew, with room for n series.
func (db *DB) rehash(sp *space, n int) {
	size := 16
	for 2*size < 4*n { // at most half full
		size *= 2
	}
	sp.table = make([]uint32, size)
	for _, id := range sp.ids {
		sp.put(id, db.at(id).hash)
	}
}

// purgeStep is how many series an index is asked about before others have their turn.
const purgeStep = 1 << 14

// purge takes the series that are dead out of the index, and forgets pairs that no others have. DB.mu is held by nobody; what is half done
// shows nobody anything wrong, as readers pass over dead series.
func (db *DB) purge(sp *space) {
	isDead := func(id uint32) bool { return !db.at(id).is(live) }
	db.mu.Lock()
	defer db.mu.Unlock()
	n := len(sp.ids)
	if !slices.ContainsFunc(sp.ids, isDead) {
		return
	}
	looked := n
	for i := 0; i < len(sp.pairs); i++ {
		p := &sp.pairs[i]
		if !p.any {
			continue
		}
		looked += p.len()
		p.more = slices.DeleteFunc(p.more, isDead)
		if isDead(p.first) {
			if p.any = len(p.more) > 0; p.any {
				p.first, p.more = p.more[0], p.more[1:]
			}
		}
		if cap(p.more) > 64 && cap(p.more) > 4*len(p.more) {
			p.more = slices.Clone(p.more)
		}
		if !p.any {
			l := sp.names[p.name]
			delete(l.values, p.value)
			if len(l.values) == 0 {
				delete(sp.names, p.name)
			}
			sp.pairs[i] = pair{}
			sp.free = append(sp.free, uint32(i))
		}
		if looked >= purgeStep {
			looked = 0
			db.mu.Unlock()
			db.mu.Lock()
		}
	}
	for _, id := range sp.ids {
		if s := db.at(id); !s.is(live) {
			db.forget(id, s)
		}
	}
	sp.ids = slices.DeleteFunc(sp.ids, isDead)
	db.rehash(sp, len(sp.ids))
	sp.order.keep(func(id uint32) bool { return db.there(id) != nil })
}

// labelArena is the pairs of all series, without pointers.
type labelArena struct {
	pages [][]uint32
	used  int // of the last page
	held  int // by series that are alive
	all   int // appended since the last compaction
}

const (
	labelPage = 1 << 16
	maxPairs  = 1 << 12 // of a series; the receivers allow less
)

// put keeps pairs and says where.
func (a *labelArena) put(pairs []uint32) uint32 {
	if len(a.pages) == 0 || a.used+len(pairs) > labelPage {
		a.pages = append(a.pages, make([]uint32, labelPage))
		a.used = 0
	}
	at := uint32(len(a.pages)-1)*labelPage + uint32(a.used)
	copy(a.pages[len(a.pages)-1][a.used:], pairs)
	a.used += len(pairs)
	a.held += len(pairs)
	a.all += len(pairs)
	return at
}

func (a *labelArena) get(at uint32, n int) []uint32 {
	i := int(at % labelPage)
	return a.pages[at/labelPage][i : i+n : i+n]
}

// pairsOf are the pairs of a series, in the order of their names.
func (db *DB) pairsOf(s *series) []uint32 { return db.labels.get(s.labels, int(s.pairs)) }

// compactLabels makes the arena anew if most of it is of series that are gone.
func (db *DB) compactLabels() {
	a := &db.labels
	if a.all < 16*labelPage || a.all < 2*a.held {
		return
	}
	old := *a
	*a = labelArena{}
	for _, sp := range db.spaces {
		for _, id := range sp.ids {
			s := db.at(id)
			s.labels = a.put(old.get(s.labels, int(s.pairs)))
		}
	}
}
