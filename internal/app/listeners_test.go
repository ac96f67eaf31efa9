package app

import "testing"

// TestSharesLeaveRoom: the listeners together leave a quarter of the descriptors, and the webhooks have as many as all other
// ports twice over.
func TestSharesLeaveRoom(t *testing.T) {
	for _, limit := range []uint64{64, 256, 1024, 4096, 65536, 1 << 20, ^uint64(0)} {
		s := shareDescriptors(limit)
		sum := s.webhooks + s.hooks + s.metrics + s.web
		if uint64(sum) > limit-limit/4 || s.webhooks < 2*(s.hooks+s.metrics+s.web) || s.metrics < 2 || s.web < 2 {
			t.Errorf("of %d: %+v", limit, s)
		}
	}
}
