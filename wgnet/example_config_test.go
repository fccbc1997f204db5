// SPDX-License-Identifier: MIT

package wgnet_test

import (
	"fmt"
	"log"
	"strings"

	"example.com/wgnet/wgnet"
)

func ExampleParseConfig() {
	cfg, err := wgnet.ParseConfig(strings.NewReader(`
[Interface]
PrivateKey = yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=
Address = 10.0.0.1
ListenPort = 51820
PostUp = iptables -A FORWARD -i %i -j ACCEPT

[Peer]
# Name = db
PublicKey = xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=
EndPoint = 192.0.2.1:51820
AllowedIPs = 10.0.0.2/32,192.168.1.0/24
`))
	if err != nil {
		log.Fatal(err)
	}
	for _, w := range cfg.Warnings() {
		fmt.Println(w)
	}
	fmt.Println("we are", cfg.PrivateKey.Public(), "at", cfg.Addresses)
	fmt.Print(cfg.Peers[0])
	fmt.Println("our private key is", cfg.PrivateKey)
	// Output:
	// line 6: [Interface] PostUp: ignored: wgnet starts no programs
	// we are HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw= at [10.0.0.1/32]
	// [Peer]
	// # Name = db
	// PublicKey = xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=
	// Endpoint = 192.0.2.1:51820
	// AllowedIPs = 10.0.0.2/32, 192.168.1.0/24
	// our private key is (redacted)
}

func ExampleConfig_Token() {
	cfg, err := wgnet.ParseConfig(strings.NewReader(`
[Interface]
PrivateKey = yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=
Address = 10.0.0.1

[Peer]
# Name = server
PublicKey = xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=
Endpoint = vpn.example.com:51820
AllowedIPs = 10.0.0.2/32
`))
	if err != nil {
		log.Fatal(err)
	}
	token, err := cfg.Token() // a secret: show it to the one person that it is for
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(token)

	same, err := wgnet.ParseToken(token)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("we are", same.PrivateKey.Public(), "at", same.Addresses)

	_, err = wgnet.ParseToken(token[:len(token)-10])
	fmt.Println(err)
	// Output:
	// wgnet1_yAnz5TF-lXXJte14tji3zlMNq-hd2rYUIgJBgB3fBmkBIAoAAAEAAAAAAQZzZXJ2ZXLFMgEDmtuhS-cfiG2h2Nvp7r3tCMsRG3U0AHiZmqnwOAAVdnBuLmV4YW1wbGUuY29tOjUxODIwASAKAAACAN39DEU
	// we are HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw= at [10.0.0.1/32]
	// wgnet: token: it is cut short or mistyped: its checksum is wrong; copy the whole of it again
}
