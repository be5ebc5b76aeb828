"""What a host answers its ports by itself: addresses (DHCP, router advertisements), names (DNS), metadata."""
