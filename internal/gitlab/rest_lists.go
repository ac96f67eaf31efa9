package gitlab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"

	gl "gitlab.com/gitlab-org/api/client-go/v2"
)

// pager finds the way from page to page. GitLab names the next page in a Link header (keyset pagination), in
// X-Next-Page, or in both; what stands between us and GitLab may strip headers, and then pages are asked for by
// number until one brings nothing new.
type pager struct {
	q      url.Values
	page   int64
	linked bool // a Link header was seen, so that its absence is the end
}

// next moves on to the next page, or returns false at the end of the list. got is how many items the last answer
// had, fresh how many of them no page before had.
func (p *pager) next(resp *gl.Response, got, fresh, size int) (more bool, err error) {
	h := resp.Header
	switch {
	case resp.NextLink != "":
		next, err := url.Parse(resp.NextLink)
		if err != nil {
			return false, errors.New("the link to the next page is broken")
		}
		// Only its query: whatever host it names, the token goes to ours.
		before := p.q.Encode()
		if p.q, p.linked = next.Query(), true; p.q.Encode() == before {
			return false, errCircle
		}
		p.page, _ = strconv.ParseInt(p.q.Get("page"), 10, 64) // none with keyset
		return true, nil
	case resp.NextPage > 0:
		if resp.NextPage <= p.page {
			return false, errCircle
		}
		p.turn(resp.NextPage)
		return true, nil
	case p.linked || h.Get("Link") != "" || h.Get("X-Page") != "" || h.Get("X-Total") != "" || h.Get("X-Per-Page") != "" || len(h.Values("X-Next-Page")) > 0:
		return false, nil
	case got == 0:
		return false, nil
	case fresh == 0 && got == size:
		return false, errCircle // it may hold more, and never gives it
	case fresh == 0:
		return false, nil // a server that does not page: all was in the first answer
	}
	p.turn(p.page + 1)
	return true, nil
}

func (p *pager) turn(page int64) {
	p.page = page
	p.q.Set("page", strconv.FormatInt(page, 10))
}

var errCircle = errors.New("the pages of GitLab's list lead in a circle")

// listed is an item of a list.
type listed interface{ id() (int64, error) }

// page reads one page of a list. An answer that is no list, or holds items without an id, is no empty list: it is not
// read.
func page[T listed](ctx context.Context, a *api, path string, q url.Values) (map[int64]T, int, *gl.Response, error) {
	var list *[]*T // a pointer, because "null" would look like an empty list
	resp, err := a.get(ctx, path, q, &list)
	if err != nil {
		return nil, 0, nil, err
	}
	if list == nil {
		return nil, 0, nil, fmt.Errorf("reading %s: %w: it answers null where a list must be", path, ErrNotGitLab)
	}
	out := make(map[int64]T, len(*list))
	for _, it := range *list {
		if it == nil {
			return nil, 0, nil, fmt.Errorf("reading %s: an item of the list is null", path)
		}
		id, err := (*it).id()
		if err != nil {
			return nil, 0, nil, fmt.Errorf("reading %s: %w", path, err)
		}
		out[id] = *it
	}
	return out, len(*list), resp, nil
}

// keyset lists everything below path by GitLab's keyset pagination. A server that answers by page numbers is read like
// any such list. With an error it returns what was read until then.
func keyset[T listed](ctx context.Context, a *api, path string, q url.Values) (map[int64]T, error) {
	items := map[int64]T{}
	p := pager{q: maps.Clone(q), page: 1}
	p.q.Set("pagination", "keyset")
	p.q.Set("order_by", "id")
	p.q.Set("sort", "asc")
	p.q.Set("per_page", strconv.Itoa(a.pageSize))
	for seen := map[string]bool{}; ; {
		if key := p.q.Encode(); seen[key] {
			return items, fmt.Errorf("reading %s: %w", path, errCircle)
		} else {
			seen[key] = true
		}
		got, n, resp, err := page[T](ctx, a, path, p.q)
		if err != nil {
			return items, err
		}
		before := len(items)
		maps.Copy(items, got)
		more, err := p.next(resp, n, len(items)-before, a.pageSize)
		if err != nil {
			return items, fmt.Errorf("reading %s: %w", path, err)
		}
		if more && p.linked {
			continue
		}
		if !more && int64(len(items)) < resp.TotalItems {
			return items, fmt.Errorf("reading %s: %w", path, errMoving)
		}
		q := maps.Clone(q)
		q.Set("order_by", "id")
		q.Set("sort", "asc")
		if !more {
			// A full page that names no other one: the end, or a link that was lost on the way.
			if n < a.pageSize || len(items) >= maxOffset {
				return items, nil
			}
			q.Set("per_page", strconv.Itoa(a.pageSize))
			q.Set("page", strconv.Itoa(len(items)/a.pageSize+1))
			if beyond, _, _, err := page[T](ctx, a, path, q); err != nil || len(beyond) == 0 {
				return items, err
			}
		}
		all, err := numbered[T](ctx, a, path, q)
		if err != nil {
			return items, err
		}
		return all, nil
	}
}

// maxOffset is how far GitLab counts by page numbers in lists that it also pages by keyset (source: GitLab's instance
// limits).
const maxOffset = 50_000

var errMoving = errors.New("the list kept changing while it was read, or is shorter than GitLab says itself")

// offset lists everything below path by page numbers, in order of id.
func offset[T listed](ctx context.Context, a *api, path string, q url.Values) ([]T, error) {
	items, err := numbered[T](ctx, a, path, q)
	if err != nil {
		return nil, err
	}
	keys := slices.Sorted(maps.Keys(items))
	out := make([]T, len(keys))
	for i, k := range keys {
		out[i] = items[k]
	}
	return out, nil
}

// numbered reads a list by page numbers. Something deleted meanwhile moves later items to pages already read, so they
// would be missed: the list is read again until its count was stable and fits. Beyond 10,000 records GitLab names no
// count; such a list is read twice and merged.
func numbered[T listed](ctx context.Context, a *api, path string, q url.Values) (map[int64]T, error) {
	var last map[int64]T
	for range 3 {
		items := map[int64]T{}
		read, pages := 0, 0
		var first, total int64
		counted := true
		p := pager{q: maps.Clone(q), page: 1}
		p.q.Set("per_page", strconv.Itoa(a.pageSize))
		p.q.Set("page", "1")
		for more := true; more; {
			got, n, resp, err := page[T](ctx, a, path, p.q)
			if err != nil {
				return nil, err
			}
			fresh := len(items)
			maps.Copy(items, got)
			fresh = len(items) - fresh
			if read += n; n > 0 {
				pages++
			}
			total, counted = resp.TotalItems, counted && resp.Header.Get("X-Total") != ""
			if pages <= 1 {
				first = total
			}
			if more, err = p.next(resp, n, fresh, a.pageSize); err != nil {
				return nil, fmt.Errorf("reading %s: %w", path, err)
			}
		}
		done := (pages <= 1 && !counted) || (counted && first == total && len(items) == read && int64(read) == total)
		if !done && last != nil && sameKeys(last, items) && (!counted || int64(read) >= total) {
			done = true // twice the same: the count means something else than that some are lacking
		}
		if !done && !counted && last != nil {
			maps.Copy(last, items)
			items, done = last, true
		}
		if done {
			return items, nil
		}
		last = items
	}
	return nil, fmt.Errorf("reading %s: %w", path, errMoving)
}

func sameKeys[T any](a, b map[int64]T) bool {
	if len(a) != len(b) {
		return false
	}
	for k := range a {
		if _, ok := b[k]; !ok {
			return false
		}
	}
	return true
}
