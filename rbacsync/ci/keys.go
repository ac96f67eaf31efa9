package ci

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"k8s.io/client-go/rest"
)

// KeysOf returns a func that asks the API server which keys it accepts ServiceAccount tokens of, by key id.
func KeysOf(client rest.Interface) func(context.Context) (map[string]bool, error) {
	return func(ctx context.Context) (map[string]bool, error) {
		body, err := client.Get().AbsPath("/openid/v1/jwks").DoRaw(ctx)
		if err != nil {
			return nil, fmt.Errorf("reading the API server's keys from /openid/v1/jwks: %w", err)
		}
		var set struct {
			Keys []struct {
				ID string `json:"kid"`
			} `json:"keys"`
		}
		if err := json.Unmarshal(body, &set); err != nil {
			return nil, fmt.Errorf("reading the API server's keys from /openid/v1/jwks: %w", err)
		}
		out := map[string]bool{}
		for _, k := range set.Keys {
			if k.ID != "" {
				out[k.ID] = true
			}
		}
		return out, nil
	}
}

// keyring remembers the API server's keys between two looks at them.
type keyring struct {
	mu     sync.Mutex
	known  map[string]bool // nil: not known
	looked time.Time
	// fresh holds the keys of tokens that were issued a moment ago: while several API servers get a new key one after
	// the other, the one that is asked may not list it yet.
	fresh map[string]time.Time
}

// freshFor is how long all API servers may take until they list a new key.
const freshFor = 10 * time.Minute

// look asks again when the last look is older than every.
func (k *keyring) look(ctx context.Context, ask func(context.Context) (map[string]bool, error), now time.Time, every time.Duration) error {
	if ask == nil {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.looked.IsZero() && now.Before(k.looked.Add(every)) {
		return nil
	}
	known, err := ask(ctx)
	if err != nil {
		return err
	}
	k.known, k.looked = known, now
	for id, at := range k.fresh {
		if now.Sub(at) > freshFor {
			delete(k.fresh, id)
		}
	}
	return nil
}

func (k *keyring) issued(id string, now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fresh == nil {
		k.fresh = map[string]time.Time{}
	}
	k.fresh[id] = now
}

// retired reports whether the API server has given up the key.
func (k *keyring) retired(id string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, fresh := k.fresh[id]
	return len(k.known) > 0 && id != "" && !k.known[id] && !fresh
}
