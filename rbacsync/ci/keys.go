package ci

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
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

// keyring remembers the ids of the API server's keys between two looks at them.
type keyring struct {
	cached[map[string]bool] // no ids: they are not known
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
	_, err := k.get(now, every, func() (map[string]bool, error) {
		known, err := ask(ctx)
		if err == nil {
			maps.DeleteFunc(k.fresh, func(_ string, at time.Time) bool { return now.Sub(at) > freshFor })
		}
		return known, err
	})
	return err
}

// ids returns the ids of the keys that are not retired, in one text; "" while no key is known, and so none is retired.
func (k *keyring) ids() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.answer) == 0 {
		return ""
	}
	ids := slices.AppendSeq(slices.Collect(maps.Keys(k.answer)), maps.Keys(k.fresh))
	slices.Sort(ids)
	return strings.Join(slices.Compact(ids), " ")
}

func (k *keyring) issued(id string, now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fresh[id] = now
}

// retired reports whether the API server has given up the key.
func (k *keyring) retired(id string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, fresh := k.fresh[id]
	return len(k.answer) > 0 && id != "" && !k.answer[id] && !fresh
}
