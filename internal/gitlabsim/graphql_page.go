package gitlabsim

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"slices"

	"github.com/vektah/gqlparser/v2/gqlerror"
)

// gqlRow is one item of a list before it is cut into pages. Rows are ordered by key, then by id, so that a page begins after
// its cursor wherever rows came or went meanwhile, as GitLab's keyset pagination does.
type gqlRow struct {
	key string
	id  int64
	obj gqlObject
}

// gqlOrder says how a list is sorted. name is part of every cursor: a cursor of another order is refused.
type gqlOrder struct {
	name string
	desc bool
}

type gqlCursor struct {
	Order string `json:"o"`
	Key   string `json:"k"`
	ID    int64  `json:"id,string"`
}

// gqlConnection is one page of a list and what its pageInfo tells.
type gqlConnection struct {
	name        string // of the GraphQL type
	edge        string
	rows        []gqlRow
	order       gqlOrder
	total       int
	hasPrevious bool
	hasNext     bool
}

// gqlPage cuts a list as the arguments first, last, after and before ask, never longer than GitLab's cap.
func gqlPage(name string, rows []gqlRow, by gqlOrder, args arguments) (*gqlConnection, error) {
	first, hasFirst := args.integer("first")
	last, hasLast := args.integer("last")
	if hasFirst && hasLast {
		return nil, gqlerror.Errorf("Can only provide either `first` or `last`, not both")
	}
	if hasFirst && first < 0 || hasLast && last < 0 {
		return nil, gqlerror.Errorf("Page size must not be negative")
	}
	compare := func(a, b gqlRow) int {
		c := cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.id, b.id))
		if by.desc {
			return -c
		}
		return c
	}
	slices.SortFunc(rows, compare)

	start, end := 0, len(rows)
	if s := args.str("after"); s != "" {
		at, err := decodeCursor(s, by)
		if err != nil {
			return nil, err
		}
		n, found := slices.BinarySearchFunc(rows, at, compare)
		if found {
			n++
		}
		start = n
	}
	if s := args.str("before"); s != "" {
		at, err := decodeCursor(s, by)
		if err != nil {
			return nil, err
		}
		end, _ = slices.BinarySearchFunc(rows, at, compare)
	}
	end = max(start, end)
	if hasLast {
		start = max(start, end-min(last, maxPageSize))
	} else {
		size := maxPageSize
		if hasFirst {
			size = min(first, maxPageSize)
		}
		end = min(end, start+size)
	}
	return &gqlConnection{
		name: name, edge: name[:len(name)-len("Connection")] + "Edge",
		rows: rows[start:end], order: by, total: len(rows), hasPrevious: start > 0, hasNext: end < len(rows),
	}, nil
}

func (by gqlOrder) cursor(r gqlRow) string {
	if by.desc {
		by.name += "-"
	}
	raw, err := json.Marshal(gqlCursor{Order: by.name, Key: r.key, ID: r.id})
	if err != nil { // strings and a number: cannot happen
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(raw)
}

func decodeCursor(s string, by gqlOrder) (gqlRow, error) {
	if by.desc {
		by.name += "-"
	}
	var c gqlCursor
	raw, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || json.Unmarshal(raw, &c) != nil || c.Order != by.name {
		return gqlRow{}, gqlerror.Errorf("Please provide a valid cursor")
	}
	return gqlRow{key: c.Key, id: c.ID}, nil
}

func (c *gqlConnection) typeName() string { return c.name }

func (c *gqlConnection) resolve(_ *execution, name string, args arguments) (any, error) {
	switch name {
	case "nodes":
		return gqlObjects(c.rows, func(r gqlRow) gqlObject { return r.obj }), nil
	case "edges":
		return gqlObjects(c.rows, func(r gqlRow) gqlObject { return gqlEdge{c, r} }), nil
	case "count":
		if limit, ok := args.integer("limit"); ok && c.total > limit {
			return limit + 1, nil
		}
		return c.total, nil
	default:
		return gqlPageInfo{c}, nil
	}
}

type gqlEdge struct {
	c *gqlConnection
	r gqlRow
}

func (e gqlEdge) typeName() string { return e.c.edge }

func (e gqlEdge) resolve(_ *execution, name string, _ arguments) (any, error) {
	if name == "cursor" {
		return e.c.order.cursor(e.r), nil
	}
	return e.r.obj, nil
}

type gqlPageInfo struct{ c *gqlConnection }

func (gqlPageInfo) typeName() string { return "PageInfo" }

func (p gqlPageInfo) resolve(_ *execution, name string, _ arguments) (any, error) {
	rows := p.c.rows
	switch name {
	case "hasNextPage":
		return p.c.hasNext, nil
	case "hasPreviousPage":
		return p.c.hasPrevious, nil
	case "startCursor":
		if len(rows) > 0 {
			return p.c.order.cursor(rows[0]), nil
		}
	case "endCursor":
		if len(rows) > 0 {
			return p.c.order.cursor(rows[len(rows)-1]), nil
		}
	}
	return nil, nil
}
