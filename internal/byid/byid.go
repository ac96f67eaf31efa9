// Package byid keeps what was found out about ids of GitLab.
package byid

// Cache keeps a value for each id; the zero value of T stands for none. Ids below its limit cost an index and no hash: plans of a
// large GitLab ask half a million times about the same few thousand users. It is not safe for concurrent use.
type Cache[T comparable] struct {
	low  []T
	high map[int64]T
}

// New returns an empty Cache with room for all ids below the limit, which is 0 for one that is asked little.
func New[T comparable](limit int) *Cache[T] {
	return &Cache[T]{low: make([]T, max(0, limit)), high: map[int64]T{}}
}

// Get returns what is kept of an id.
func (c *Cache[T]) Get(id int64) T {
	if uint64(id) < uint64(len(c.low)) { //nolint:gosec // a negative id is a large number then
		return c.low[id]
	}
	return c.high[id]
}

// Set keeps a value of an id.
func (c *Cache[T]) Set(id int64, v T) {
	if uint64(id) < uint64(len(c.low)) { //nolint:gosec // as in Get
		c.low[id] = v
		return
	}
	c.high[id] = v
}

// Limit returns a limit for a plan about many sources of a GitLab with that many users: their ids are seldom much larger than
// their number. For few sources it is 0, because room for all would cost more than it saves.
func Limit(sources, users int) int {
	const many = 100
	if sources < many {
		return 0
	}
	return 2*users + 1024
}
