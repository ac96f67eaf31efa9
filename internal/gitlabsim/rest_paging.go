package gitlabsim

import (
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

const (
	maxPerPage = 100
	// maxOffset is offset_pagination_limit; GitLab applies it where keyset paging exists (https://docs.gitlab.com/administration/instance_limits/).
	maxOffset = 50000
	// countLimit: beyond it GitLab leaves out totals and rel="last".
	countLimit = 10000
)

func (c *call) perPage() (int, error) {
	n, given, err := c.number("per_page")
	if err != nil {
		return 0, err
	}
	if !given {
		return 20, nil
	}
	if n < 1 {
		return 0, badParameter("per_page does not have a valid value")
	}
	return int(min(n, maxPerPage)), nil
}

// paginate cuts one page by offset and sets GitLab's headers. limited names the type of objects if the offset
// limit applies.
func paginate[T any](c *call, items []T, limited string) ([]T, error) {
	per, err := c.perPage()
	if err != nil {
		return nil, err
	}
	n, given, err := c.number("page")
	if err != nil {
		return nil, err
	}
	if !given {
		n = 1
	}
	if n < 1 || n > math.MaxInt32 {
		return nil, badParameter("page does not have a valid value")
	}
	page := int(n)
	if limited != "" && (page-1)*per >= maxOffset {
		return nil, &Error{Status: http.StatusMethodNotAllowed, Body: map[string]any{"error": fmt.Sprintf(
			"Offset pagination has a maximum allowed offset of %d for requests that return objects of type %s. Remaining records can be retrieved using keyset pagination.", maxOffset, limited)}}
	}
	total := len(items)
	pages := max(1, (total+per-1)/per)
	from := min((page-1)*per, total)
	to := min(from+per, total)
	h := c.w.Header()
	number := func(p int, ok bool) string {
		if !ok {
			return ""
		}
		return strconv.Itoa(p)
	}
	h.Set("X-Page", strconv.Itoa(page))
	h.Set("X-Per-Page", strconv.Itoa(per))
	h.Set("X-Next-Page", number(page+1, to < total))
	hasPrevious := page > 1 && page <= pages // kaminari: a page past the end has none
	h.Set("X-Prev-Page", number(page-1, hasPrevious))
	links := []string{}
	link := func(p int, rel string) {
		q := copyQuery(c.query)
		q.Set("page", strconv.Itoa(p))
		q.Set("per_page", strconv.Itoa(per))
		links = append(links, c.link(q, rel))
	}
	if hasPrevious {
		link(page-1, "prev")
	}
	if to < total {
		link(page+1, "next")
	}
	link(1, "first")
	if total <= countLimit {
		link(pages, "last")
		h.Set("X-Total", strconv.Itoa(total))
		h.Set("X-Total-Pages", strconv.Itoa(pages))
	}
	h.Set("Link", strings.Join(links, ", "))
	return items[from:to], nil
}

func (c *call) link(q url.Values, rel string) string {
	return "<" + c.s.url + c.r.URL.EscapedPath() + "?" + q.Encode() + `>; rel="` + rel + `"`
}

// copyQuery copies a query without credentials.
func copyQuery(q url.Values) url.Values {
	out := url.Values{}
	for k, vs := range q {
		if k != "private_token" {
			out[k] = slices.Clone(vs)
		}
	}
	return out
}

// keyset says whether the caller wants keyset paging.
func (c *call) keyset() bool { t, _ := c.text("pagination"); return t == "keyset" }

// noKeyset is GitLab's answer where keyset paging doesn't exist for the wanted order.
func noKeyset() *Error {
	return &Error{Status: http.StatusMethodNotAllowed, Body: map[string]any{"error": "Keyset pagination is not yet available for this type of request"}}
}

// nextPage sets the Link of a keyset page: next carries the parameter that starts the next page.
func (c *call) nextPage(key, value string, per int) {
	q := copyQuery(c.query)
	q.Set(key, value)
	q.Set("per_page", strconv.Itoa(per))
	c.w.Header().Set("Link", c.link(q, "next"))
}
