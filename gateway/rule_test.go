// SPDX-License-Identifier: MIT

package gateway

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
)

// testOwn is a host with one LAN of each family.
func testOwn() *ownAddrs {
	return &ownAddrs{route: noRoutes, interfaces: func() ([]net.Addr, error) {
		return []net.Addr{
			&net.IPNet{IP: net.ParseIP("127.0.0.1"), Mask: net.CIDRMask(8, 32)},
			&net.IPNet{IP: net.ParseIP("192.168.1.2"), Mask: net.CIDRMask(24, 32)},
			&net.IPNet{IP: net.ParseIP("203.0.113.9").To4(), Mask: net.CIDRMask(31, 32)},
			&net.IPNet{IP: net.ParseIP("198.51.100.7"), Mask: net.CIDRMask(120, 128)}, // 4-in-6 with its mask
			&net.IPNet{IP: net.ParseIP("2001:db8::2"), Mask: net.CIDRMask(64, 128)},
			&net.IPNet{IP: net.ParseIP("fe80::2"), Mask: net.CIDRMask(64, 128)},
			&net.UnixAddr{Name: "not an address of IP"},
		}, nil
	}}
}

// noRoutes is routeKind on a host that cannot be asked.
func noRoutes(netip.Addr) (special, error) { return special{}, errors.ErrUnsupported }

// TestSpecial is fault 63: whatever its spelling, a special address or one of the host's is denied although a rule
// allows everything, and allowed only by a rule that says special.
func TestSpecial(t *testing.T) {
	const never, special, ordinary = "never", "special", "ordinary"
	for _, tc := range []struct{ addr, want string }{
		{"127.0.0.1", special},
		{"127.1.2.3", special},
		{"::1", special},
		{"::ffff:127.0.0.1", special},   // 4-in-6
		{"::ffff:7f00:1", special},      // the same, in hex
		{"::127.0.0.1", special},        // IPv4-compatible
		{"::ffff:0:127.0.0.1", special}, // IPv4-translated
		{"64:ff9b::127.0.0.1", special}, // NAT64
		{"64:ff9b::7f00:1", special},
		{"64:ff9b:1::127.0.0.1", special}, // NAT64 of the network's own
		{"64:ff9b:1:7f00:0:100::", special},
		{"2002:7f00:1::", special},                      // 6to4
		{"2001::7f00:1:0:0:80ff:fffe", special},         // Teredo
		{"2001:db8::5efe:127.0.0.1", special},           // ISATAP
		{"2001:db8::200:5efe:169.254.169.254", special}, // ISATAP with a global address
		{"0.0.0.0", never},                              // the loopback, to Go and to Linux
		{"::", never},                                   //
		{"::ffff:0.0.0.0", never},                       //
		{"64:ff9b::", never},                            //
		{"0.1.2.3", special},                            //
		{"169.254.169.254", special},                    // metadata
		{"::ffff:169.254.169.254", special},             //
		{"64:ff9b::a9fe:a9fe", special},                 //
		{"2002:a9fe:a9fe::1", special},                  //
		{"169.254.0.1", special},                        // link-local
		{"fe80::1", special},                            //
		{"fe80::1%eth0", special},                       //
		{"febf::1", special},                            //
		{"fec0::1", special},                            // site-local
		{"fd00:ec2::254", special},                      // metadata, AWS
		{"fd00:ec2::253", special},                      //
		{"fd20:ce::254", special},                       // Google
		{"100.100.100.200", special},                    // Alibaba
		{"64:ff9b::100.100.100.200", special},           //
		{"168.63.129.16", special},                      // Azure
		{"192.0.0.192", special},                        // Oracle
		{"192.168.1.2", special},                        // the host's own
		{"::ffff:192.168.1.2", special},                 //
		{"64:ff9b::192.168.1.2", special},               //
		{"203.0.113.9", special},                        //
		{"198.51.100.7", special},                       //
		{"2001:db8::2", special},                        //
		{"2001:db8::", special},                         // subnet-router anycast
		{"224.0.0.1", never},                            // multicast
		{"239.255.255.250", never},                      //
		{"::ffff:224.0.0.1", never},                     //
		{"64:ff9b::224.0.0.1", never},                   //
		{"ff02::1", never},                              //
		{"255.255.255.255", never},                      // broadcast
		{"192.168.1.255", never},                        // of the LAN
		{"192.168.1.0", never},                          //
		{"64:ff9b::192.168.1.255", never},               //
		{"198.51.100.255", never},                       //
		{"240.0.0.1", special},                          //
		{"192.168.1.3", ordinary},                       // a neighbor
		{"192.168.2.255", ordinary},                     // may be a host, in a network that is not ours
		{"203.0.113.8", ordinary},                       // RFC 3021: both of two are hosts
		{"10.0.0.1", ordinary},                          //
		{"100.64.0.1", ordinary},                        //
		{"8.8.8.8", ordinary},                           //
		{"64:ff9b::8.8.8.8", ordinary},                  //
		{"::ffff:8.8.8.8", ordinary},                    //
		{"2001:db8::3", ordinary},                       //
		{"2001:4860:4860::8888", ordinary},              // not Teredo
		{"fd00::1", ordinary},                           //
		{"2001:db8::5eff:7f00:1", ordinary},             // not ISATAP
	} {
		t.Run(tc.addr, func(t *testing.T) {
			spelled := netip.MustParseAddr(tc.addr)
			kind := testOwn().kind(spelled)
			dst := netip.AddrPortFrom(spelled.Unmap().WithZone(""), 80)
			everywhere := []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
			for _, rules := range []struct {
				name string
				rule Rule
				want bool
			}{
				{"allow", Rule{Action: Allow}, tc.want == ordinary},
				{"allow to everywhere", Rule{Action: Allow, To: everywhere}, tc.want == ordinary},
				{"allow special", Rule{Action: Allow, To: everywhere, Special: true}, tc.want != never},
			} {
				p, err := newPolicy([]Rule{rules.rule})
				if err != nil {
					t.Fatal(err)
				}
				v := p.decide(source{id: "key"}, networkTCP, dst, kind)
				if v.allowed != rules.want {
					t.Errorf("%s: allowed %v (%s, %+v), want %v", rules.name, v.allowed, v.why(), kind, rules.want)
				}
			}
		})
	}
}

// TestOwnUnreadable: a host that cannot list its addresses takes each for its own.
func TestOwnUnreadable(t *testing.T) {
	o := &ownAddrs{route: noRoutes, interfaces: func() ([]net.Addr, error) { return nil, errors.New("no netlink") }}
	if k := o.kind(netip.MustParseAddr("8.8.8.8")); !strings.Contains(k.what, "no netlink") || k.never {
		t.Errorf("%+v: want a special address and the reason", k)
	}
}

func TestDecide(t *testing.T) {
	const rules = `
		deny tcp to 192.168.1.7
		allow tcp,udp from laptop,KEYKEYKEYKEYKEYKEYKEYKEYKEYKEYKEYKEYKEYKEY= to 192.168.1.0/24 port 80,8000-8099
		allow ping to 192.168.0.0/16, 2001:db8::/32
		deny to 10.0.0.0/8
		allow tcp to any port 443
		allow from phone
	`
	list, err := ParseRules(rules)
	if err != nil {
		t.Fatal(err)
	}
	p, err := newPolicy(list)
	if err != nil {
		t.Fatal(err)
	}
	laptop, phone, tv := source{"Laptop", "A"}, source{"phone", "B"}, source{"tv", "C"}
	nameless := source{id: "KEYKEYKEYKEYKEYKEYKEYKEYKEYKEYKEYKEYKEYKEY="}
	for _, tc := range []struct {
		name    string
		from    source
		network string
		dst     string
		want    bool
		why     string
	}{
		{"first match denies", laptop, "tcp", "192.168.1.7:80", false, "rule 1: "},
		{"first match is of TCP alone", laptop, "udp", "192.168.1.7:80", true, "rule 2: "},
		{"by name, in any case", laptop, "tcp", "192.168.1.8:80", true, "rule 2: "},
		{"by key", nameless, "tcp", "192.168.1.8:80", true, "rule 2: "},
		{"the range's first", laptop, "tcp", "192.168.1.8:8000", true, "rule 2: "},
		{"the range's last", laptop, "tcp", "192.168.1.8:8099", true, "rule 2: "},
		{"after the range", laptop, "tcp", "192.168.1.8:8100", false, "no rule"},
		{"another peer", tv, "tcp", "192.168.1.8:80", false, "no rule"},
		{"another network", laptop, "tcp", "192.168.2.8:80", false, "no rule"},
		{"ping", tv, "ping", "192.168.1.8:0", true, "rule 3: "},
		{"ping does not match ports", tv, "ping", "8.8.8.8:0", false, "no rule"},
		{"IPv6", tv, "ping", "[2001:db8::1]:0", true, "rule 3: "},
		{"denied before it is allowed", tv, "tcp", "10.1.2.3:443", false, "rule 4: "},
		{"denied by its other spelling", tv, "tcp", "[64:ff9b::10.1.2.3]:443", false, "rule 4: "},
		{"allowed by its own spelling only", tv, "ping", "[64:ff9b::192.168.1.8]:0", false, "no rule"},
		{"any", tv, "tcp", "[2001:4860::1]:443", true, "rule 5: "},
		{"any address, another port", tv, "tcp", "8.8.8.8:80", false, "no rule"},
		{"everything from a peer", phone, "udp", "8.8.8.8:53", true, "rule 6: "},
		{"everything but what is denied", phone, "udp", "10.8.8.8:53", false, "rule 4: "},
		{"everything but special ones", phone, "udp", "127.0.0.1:53", false, "loopback"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dst := netip.MustParseAddrPort(tc.dst)
			v := p.decide(tc.from, tc.network, dst, testOwn().kind(dst.Addr()))
			if v.allowed != tc.want || !strings.Contains(v.why(), tc.why) {
				t.Errorf("allowed %v (%s), want %v (%s)", v.allowed, v.why(), tc.want, tc.why)
			}
		})
	}
}
