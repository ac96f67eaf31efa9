package gitlab

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// cut makes lists of REST shorter, without leaving a sign of it.
type cut struct {
	next http.RoundTripper
	hits func(path string) bool
	keep func(n int) int
	mu   sync.Mutex // by REST alone, projects and users are read at the same time
	n    int        // how often something was taken away
}

func (c *cut) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := c.next.RoundTrip(r)
	if err != nil || resp.StatusCode != http.StatusOK || !c.hits(r.URL.Path) {
		return resp, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []any
	var object map[string]any
	switch {
	case json.Unmarshal(body, &list) == nil:
		kept := c.keep(len(list))
		if kept < len(list) {
			c.n++
			resp.Header.Del("Link")
			resp.Header.Set("X-Next-Page", "")
			if resp.Header.Get("X-Total") != "" {
				resp.Header.Set("X-Total", strconv.Itoa(kept))
			}
		}
		body, _ = json.Marshal(list[:kept])
	case json.Unmarshal(body, &object) == nil:
		if links, ok := object["shared_with_groups"].([]any); ok && len(links) > 0 {
			c.n++
			object["shared_with_groups"] = links[:c.keep(len(links))]
			body, _ = json.Marshal(object)
		}
	}
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	resp.Header.Del("Content-Length")
	return resp, nil
}

// TestNoRightIsLostByShortLists: GraphQL tells all and lists of REST are cut anywhere. What both tell and what is not the same
// is missing, and nobody loses a right.
func TestNoRightIsLostByShortLists(t *testing.T) {
	o := newOrg(t)
	struck := 0
	for seed := range uint64(40) {
		rng := rand.New(rand.NewPCG(seed, 7))
		which := rng.IntN(4)
		c := &cut{keep: func(n int) int { return rng.IntN(n + 1) }, hits: func(path string) bool {
			_, group, one := strings.Cut(path, "/api/v4/groups/")
			switch one = one && !strings.Contains(group, "/"); which {
			case 0:
				return path == "/api/v4/projects"
			case 1:
				return one
			case 2: // and what is then read alone
				return path == "/api/v4/projects" || strings.HasSuffix(path, "/members")
			}
			return path == "/api/v4/projects" || strings.HasSuffix(path, "/members") || one || path == "/api/v4/users"
		}}
		r := o.reader(func(op *Options) {
			c.next = op.HTTPClient.Transport
			op.HTTPClient, op.Concurrency = &http.Client{Transport: c}, 1
		})
		got, err := r.Snapshot(t.Context())
		if err != nil {
			continue // nothing is changed
		}
		struck += c.n
		t.Run(fmt.Sprintf("seed %d, lists %d", seed, which), func(t *testing.T) { o.keeps(t, got) })
	}
	if struck < 40 {
		t.Errorf("only %d lists were cut", struck)
	}
}
